// The sum of a number over the 32 threads of a row, given to each of them. Prefixed to kernels with workgroups of
// ROW_THREADS × ROW_GROUPS threads, one row to ROW_THREADS; every thread of the workgroup must call it.

const ROW_THREADS: u32 = 32u;
const ROW_GROUPS: u32 = 4u;

var<workgroup> partial: array<f32, ROW_THREADS * ROW_GROUPS>;

fn row_total(value: f32, thread: u32, row_group: u32) -> f32 {
    let slot = row_group * ROW_THREADS + thread;
    workgroupBarrier();
    partial[slot] = value;
    workgroupBarrier();
    for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
        if thread < half {
            partial[slot] += partial[slot + half];
        }
        workgroupBarrier();
    }
    return partial[row_group * ROW_THREADS];
}
