// Empty: naga's output includes it, and `metal_stdlib` beside this folder has all that kernels need.
