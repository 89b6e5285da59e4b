// A CUDA driver without a device: every call succeeds and launches are counted.
//
// Triton's binder, its cache of compiled kernels and its C launcher run over it as they are, so that the time which a
// call takes on the host can be measured without a GPU. Attributes are those of an H200 (compute capability 9.0).
#include <stddef.h>
#include <stdint.h>

int stub_launches = 0;

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
        case 8: case 97: *value = 232448; break;  // shared memory of a block
        case 10: *value = 32; break;              // threads of a warp
        case 12: case 82: *value = 65536; break;  // registers
        case 16: *value = 132; break;             // multiprocessors
        case 75: *value = 9; break;               // compute capability, major
        case 76: *value = 0; break;               // and minor
        default: *value = 1024;
    }
    return 0;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = attribute == 0 ? 1024 : 32; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "stub"; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)2; return 0; }
int cuModuleLoadData(void **module, const void *image) { *module = (void *)3; return 0; }
int cuPointerGetAttribute(void *value, int attribute, uint64_t pointer) { *(uint64_t *)value = pointer; return 0; }
int cuLaunchKernel(void) { stub_launches++; return 0; }
int cuLaunchKernelEx(void) { stub_launches++; return 0; }

int cuCtxGetLimit(void) { return 0; }
int cuCtxSetCurrent(void) { return 0; }
int cuCtxSetLimit(void) { return 0; }
int cuDriverGetVersion(void) { return 0; }
int cuFuncSetAttribute(void) { return 0; }
int cuFuncSetCacheConfig(void) { return 0; }
int cuLaunchKernelExHandle(void) { return 0; }
int cuModuleUnload(void) { return 0; }
int cuOccupancyMaxActiveClusters(void) { return 0; }
int cuStreamIsCapturing(void) { return 0; }
int cuTensorMapEncodeIm2col(void) { return 0; }
int cuTensorMapEncodeTiled(void) { return 0; }
