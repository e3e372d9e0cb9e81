/* A plug-in with one fault, chosen by FAULT when it is built: each is something ghost must notice. */
#include "ghost_plugin.h"
#include <string.h>

static char stream_of_mine;
static uint64_t given, taken;

static int open_export(const char *address, uint32_t flags, void **stream, char *error, size_t error_size)
{
    (void)address, (void)flags, (void)error, (void)error_size;
    given = 0;
#if FAULT == OPEN_NULL
    *stream = NULL;
#else
    *stream = &stream_of_mine;
#endif
#if FAULT == OPEN_CODE
    return 42;
#elif FAULT == OPEN_SILENT
    return GHOST_PLUGIN_FAILED;
#elif FAULT == ERROR_OVERLONG
    memset(error, 'x', error_size);
    error[0] = 27, error[1] = '\n';
    return GHOST_PLUGIN_FAILED;
#else
    return GHOST_PLUGIN_OK;
#endif
}

static int64_t write_bytes(void *stream, const void *bytes, size_t len, char *error, size_t error_size)
{
    (void)stream, (void)bytes, (void)error, (void)error_size;
#if FAULT == WRITE_MORE
    return (int64_t)len + 1;
#elif FAULT == WRITE_HUGE
    return INT64_MAX;
#elif FAULT == WRITE_NONE
    return 0;
#elif FAULT == WRITE_CODE
    return -77;
#elif FAULT == WRITE_MIDDLE
    if (given >= 1000000) {
        strncpy(error, "the robot arm is stuck", error_size);
        return GHOST_PLUGIN_FAILED;
    }
#endif
    given += len;
    return (int64_t)len;
}

static int finish(void *stream, struct ghost_plugin_written *written, char *error, size_t error_size)
{
    (void)stream, (void)error, (void)error_size;
    written->len_bytes = given;
    written->durable = 1;
#if FAULT == FINISH_SHORT
    written->len_bytes -= 1;
#elif FAULT == FINISH_DURABLE
    written->durable = 99;
#elif FAULT == FINISH_CODE
    return 5;
#endif
    return GHOST_PLUGIN_OK;
}

static void end(void *stream)
{
    (void)stream;
}

static int open_import(const char *address, void **stream, char *error, size_t error_size)
{
    taken = 0;
    return open_export(address, 0, stream, error, error_size);
}

static int64_t read_bytes(void *stream, void *bytes, size_t size, char *error, size_t error_size)
{
    (void)stream;
    memset(bytes, 7, size);
#if FAULT == READ_MORE
    return (int64_t)size + 1;
#elif FAULT == READ_CODE
    return INT64_MIN;
#elif FAULT == READ_MIDDLE
    if (taken >= 1000000) {
        strncpy(error, "the tape is torn", error_size);
        return GHOST_PLUGIN_FAILED;
    }
#endif
    (void)error, (void)error_size;
    taken += size;
    return (int64_t)size;
}

static int list(const char *address, ghost_plugin_entry_fn *entry, void *context, char *error, size_t error_size)
{
    (void)address, (void)error, (void)error_size;
#if FAULT == LIST_NULL
    entry(context, NULL, 1, 1);
#elif FAULT == LIST_ENDLESS
    for (int i = 0; i < 2000000; i++)
        entry(context, "faulty:again", 1, 1);
#else
    entry(context, "faulty:one", 1, -1);
#endif
    return GHOST_PLUGIN_OK;
}

static int answer(const char *address, char *error, size_t error_size)
{
    (void)address, (void)error, (void)error_size;
    return 7;
}

static const struct ghost_plugin_v1 table = {
#if FAULT == ABI
    .abi_version = 2,
#else
    .abi_version = GHOST_PLUGIN_ABI_VERSION,
#endif
#if FAULT == SIZE
    .size = 40,
#else
    .size = sizeof table,
#endif
#if FAULT != NO_NAME
    .name = "faulty",
#endif
#if FAULT == SCHEME
    .scheme = "Not A Scheme",
#elif FAULT == TAKEN
    .scheme = "disk",
#elif FAULT == LONG_SCHEME
    .scheme = "a-scheme-that-is-longer-than-any-url-should-be",
#else
    .scheme = "faulty",
#endif
#if FAULT == CLASS
    .class_write = 5,
#else
    .class_write = 0x30000,
#endif
    .class_read = 0x30001,
    .open_export = open_export,
    .write = write_bytes,
    .finish = finish,
#if FAULT != NO_ABORT
    .abort = end,
#endif
    .open_import = open_import,
    .read = read_bytes,
    .close = end,
    .list = list,
    .exists = answer,
#if FAULT != HALF_STORE
    .remove = answer,
#endif
};

#if FAULT == NO_ENTRY
const struct ghost_plugin_v1 *some_other_name(uint32_t host_abi_version)
#else
const struct ghost_plugin_v1 *ghost_plugin_v1_entry(uint32_t host_abi_version)
#endif
{
#if FAULT == NULL_TABLE
    return host_abi_version > 1000 ? &table : NULL;
#else
    (void)host_abi_version;
    return &table;
#endif
}
