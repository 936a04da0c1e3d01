/* A libnvidia-ml that has two GPUs and an energy counter: 50 W each, and 200 W more from 2.5 s after the first reading. */
#include <time.h>

static double first = -1;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
const char *nvmlErrorString(int code) { (void)code; return "error"; }

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    (void)device;
    double t = now();
    if (first < 0) first = t;
    double loaded = t - first - 2.5;
    *millijoules = (unsigned long long)(1000 * (50 * (t - first) + 200 * (loaded > 0 ? loaded : 0))) + 1000000;
    return 0;
}
