"""Gets Jittor running on a bare machine: no download, no CUDA without a driver, one notice when kernels compile."""
