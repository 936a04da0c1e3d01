/* A libnvidia-ml for tests: just what detection calls, answering from a scene in environment variables.
 *   STUB_COUNT   cards (default 1)         STUB_NAME    product name
 *   STUB_TOTAL   MiB a card                STUB_USED    MiB in use on card 0
 *   STUB_INIT    code of nvmlInit          STUB_LOST    number of a card that has fallen off the bus
 *   STUB_MIG     1: card 0 has two MIG instances       STUB_NVLINK  1: all cards linked; 2: cards in pairs
 *   STUB_PID     process on card 0         STUB_CC      compute capability, as 90 for 9.0
 * Built with -DOLD_DRIVER it lacks the newer functions, as an old driver's library does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int card; int instance; } device_t;
static device_t devices[16][3];
static long number(const char *name, long otherwise) { const char *v = getenv(name); return v ? atol(v) : otherwise; }
static device_t *of(void *handle) { return (device_t *)handle; }
static int lost(void *handle) { return number("STUB_LOST", -1) == of(handle)->card ? 15 : 0; }
#define CHECK(h) do { if (lost(h)) return 15; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; return (int)number("STUB_INIT", 0); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "stub error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "580.95.05"); return 0; }
int nvmlSystemGetNVMLVersion(char *out, unsigned n) { snprintf(out, n, "13.580.95"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)number("STUB_COUNT", 1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
    if (number("STUB_LOST", -1) == (long)i) return 15;
    devices[i][0].card = (int)i; devices[i][0].instance = -1; *out = &devices[i][0]; return 0;
}
int nvmlDeviceGetName(void *h, char *out, unsigned n) {
    CHECK(h);
    const char *name = getenv("STUB_NAME") ? getenv("STUB_NAME") : "NVIDIA H100 80GB HBM3";
    if (of(h)->instance >= 0) snprintf(out, n, "%s MIG 3g.40gb", name); else snprintf(out, n, "%s", name);
    return 0;
}
int nvmlDeviceGetUUID(void *h, char *out, unsigned n) {
    CHECK(h);
    if (of(h)->instance >= 0) snprintf(out, n, "MIG-%04d-%04d", of(h)->card, of(h)->instance);
    else snprintf(out, n, "GPU-%08d-aaaa", of(h)->card);
    return 0;
}
typedef struct { unsigned long long total, free, used; } memory_t;
static unsigned long long mib(void *h, int which) {
    unsigned long long total = (unsigned long long)number("STUB_TOTAL", 81559);
    unsigned long long used = of(h)->card == 0 ? (unsigned long long)number("STUB_USED", 0) : 0;
    if (of(h)->instance >= 0) total /= 2;
    return (which == 0 ? total : which == 1 ? total - used - 500 : used) * 1048576ULL;
}
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) {
    CHECK(h); m->total = mib(h, 0); m->free = mib(h, 1); m->used = mib(h, 2); return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) {
    CHECK(h); long cc = number("STUB_CC", 90); *major = (int)(cc / 10); *minor = (int)(cc % 10); return 0;
}
#ifndef OLD_DRIVER
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory2_t;
int nvmlDeviceGetMemoryInfo_v2(void *h, memory2_t *m) {
    CHECK(h); m->total = mib(h, 0); m->reserved = 500ULL * 1048576ULL; m->free = mib(h, 1); m->used = mib(h, 2); return 0;
}
int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) {
    CHECK(h); *current = *pending = (number("STUB_MIG", 0) && of(h)->card == 0); return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *out) { CHECK(h); *out = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned i, void **out) {
    CHECK(h);
    if (i > 1) return 6; /* not found */
    devices[of(h)->card][i + 1].card = of(h)->card; devices[of(h)->card][i + 1].instance = (int)i;
    *out = &devices[of(h)->card][i + 1]; return 0;
}
int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *active) {
    CHECK(h); if (link > 11) return 3; *active = number("STUB_NVLINK", 0) > 0; return 0;
}
int nvmlDeviceGetP2PStatus(void *a, void *b, unsigned what, unsigned *out) {
    CHECK(a); (void)what;
    int linked = number("STUB_NVLINK", 0) == 1 || of(a)->card / 2 == of(b)->card / 2; *out = linked ? 0 : 6; return 0;
}
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *count, process_t *out) {
    CHECK(h);
    long pid = of(h)->card == 0 ? number("STUB_PID", 0) : 0;
    if (!pid) { *count = 0; return 0; }
    if (*count < 1 || !out) { *count = 1; return 7; } /* insufficient size */
    *count = 1; out[0].pid = (unsigned)pid; out[0].used = 1048576ULL * 1024; out[0].gi = out[0].ci = 0xffffffff; return 0;
}
#endif
int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, unsigned *out) {
    CHECK(a); *out = of(a)->card / 4 == of(b)->card / 4 ? 40 : 50; return 0;
}
