// What `cargo xtask msl-check` must find: a loop over sums that no compiler can unroll, as naga writes loops. The check
// compiles this first and fails unless it sees the array in memory.
#include <metal_stdlib>
#include <simd/simd.h>

struct sums_type { metal::float4 inner[16]; };

void add(thread sums_type& sums, device metal::float4 const* x, uint count) {
    uint r = 0u;
    bool first = true;
    while(true) {
        if (!first) {
            r = r + 1u;
        }
        first = false;
        if (r < count) {
        } else {
            break;
        }
        sums.inner[r] = sums.inner[r] + x[r];
    }
}

kernel void main_(device metal::float4 const* x [[buffer(0)]], device metal::float4* y [[buffer(1)]],
                  constant uint& count [[buffer(2)]]) {
    sums_type sums = {};
    add(sums, x, count);
    add(sums, x + count, count);
    y[0] = sums.inner[0] + sums.inner[15];
}
