/* Stands in for NVIDIA's driver library in tests/cuda_from_wheels.sh: CUDA's runtime starts on it and gets the answer that
 * DRIVER_ANSWERS names, a `CUresult`, from every call. DRIVER_VERSION is the CUDA version it claims to serve (13000 for
 * 13.0). DRIVER_CRASHES ends the process that opens it, as a broken driver does. */
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

__attribute__((constructor)) static void opened(void) {
    if (getenv("DRIVER_CRASHES")) abort();
}

static int answer(void) { return number("DRIVER_ANSWERS", 100); /* CUDA_ERROR_NO_DEVICE */ }

int cuInit(unsigned flags) {
    (void)flags;
    return answer();
}

int cuDriverGetVersion(int *version) {
    *version = number("DRIVER_VERSION", 13000);
    return 0;
}

int cuGetExportTable(const void **table, const void *id) {
    (void)id;
    *table = NULL;
    return answer();
}

/* The runtime asks it for all other functions. */
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long flags, int *found) {
    (void)version, (void)flags;
    if (found) *found = 0;
    if (!strcmp(name, "cuInit")) *function = (void *)cuInit;
    else if (!strcmp(name, "cuDriverGetVersion")) *function = (void *)cuDriverGetVersion;
    else if (!strcmp(name, "cuGetExportTable")) *function = (void *)cuGetExportTable;
    else if (!strcmp(name, "cuGetProcAddress")) *function = (void *)cuGetProcAddress_v2;
    else *function = (void *)answer;
    return 0;
}
