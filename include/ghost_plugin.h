/*
 * A place for ghosts, written by you: the interface between ghost and a plug-in in a shared library.
 *
 * A plug-in exports one function, ghost_plugin_v1_entry, that gives a table of functions. `ghost --plugin FILE.so`
 * (or ghost_resource::Registry::load_plugin) loads it, and its URLs, SCHEME:ADDRESS, work as ghost's own do.
 * examples/plugin.c is a whole one.
 *
 * The rules:
 *  - Nothing is there for others until `finish` has returned GHOST_PLUGIN_OK. `abort`, or a failing `finish`, leaves
 *    nothing new behind, and what was there before intact.
 *  - What is there already is refused with GHOST_PLUGIN_EXISTS, unless GHOST_PLUGIN_REPLACE is given.
 *  - One stream is used by one thread at a time, not always the same one; different streams at the same time.
 *  - Strings are UTF-8 and end with a zero byte. The caller's are valid during the call only; the table and its
 *    strings for ever, and they never change.
 *  - On failure write a sentence into `error`, at most `error_size` bytes with its zero byte; it is shown to the user.
 *  - No exception, panic or longjmp may leave a function. The library is never unloaded.
 *  - ghost checks what it can (versions, sizes, codes, counts, null pointers) and reports nonsense as an error of the
 *    plug-in. It cannot see wild writes: a plug-in is trusted like ghost itself.
 */
#ifndef GHOST_PLUGIN_H
#define GHOST_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GHOST_PLUGIN_ABI_VERSION 1u

/* Flags of open_export. Unknown flags may be ignored. */
#define GHOST_PLUGIN_REPLACE 1u /* swap in the new image where there is one, when it is whole */
#define GHOST_PLUGIN_DURABLE 2u /* wait until it would survive a power cut */

/* What functions return; no other negative value is allowed. */
#define GHOST_PLUGIN_OK 0
#define GHOST_PLUGIN_FAILED (-1)  /* for the reason in `error` */
#define GHOST_PLUGIN_EXISTS (-2)  /* there is an image already */
#define GHOST_PLUGIN_MISSING (-3) /* there is no such image */

/* What a finished export amounts to. */
struct ghost_plugin_written {
    uint64_t len_bytes; /* all bytes that `write` took; ghost compares */
    uint32_t durable;   /* 1: it would survive a power cut */
    uint32_t reserved;  /* 0 */
};

/* Tells ghost one image. `modified_s` is in seconds since 1970, or -1 where it is not known. */
typedef void ghost_plugin_entry_fn(void *context, const char *url, uint64_t len_bytes, int64_t modified_s);

struct ghost_plugin_v1 {
    uint32_t abi_version; /* GHOST_PLUGIN_ABI_VERSION */
    uint32_t size;        /* sizeof(struct ghost_plugin_v1) */
    const char *name;     /* name and version for messages, at most 127 bytes */
    const char *scheme;   /* of its URLs: a-z, 0-9, + and -, a letter first, 2 to 31 bytes */
    uint32_t class_write; /* class ids for both directions, from 0x10000 on, used by no other plug-in */
    uint32_t class_read;

    /* Export. `*stream` is the plug-in's own and comes back in the calls below. */
    int (*open_export)(const char *address, uint32_t flags, void **stream, char *error, size_t error_size);
    /* Takes 1 to `len` bytes and returns how many, or a negative code. */
    int64_t (*write)(void *stream, const void *bytes, size_t len, char *error, size_t error_size);
    /* Ends the stream, whatever it returns. */
    int (*finish)(void *stream, struct ghost_plugin_written *written, char *error, size_t error_size);
    /* Ends the stream and takes everything back. */
    void (*abort)(void *stream);

    /* Import. */
    int (*open_import)(const char *address, void **stream, char *error, size_t error_size);
    /* Gives 1 to `size` bytes and returns how many, 0 at the end of the image, or a negative code. */
    int64_t (*read)(void *stream, void *bytes, size_t size, char *error, size_t error_size);
    /* Ends the stream. */
    void (*close)(void *stream);

    /* A place that keeps images has all three of these; others have three null pointers. */
    int (*list)(const char *address, ghost_plugin_entry_fn *entry, void *context, char *error, size_t error_size);
    int (*exists)(const char *address, char *error, size_t error_size); /* 1 yes, 0 no, or a negative code */
    int (*remove)(const char *address, char *error, size_t error_size);
};

/* The only symbol that ghost looks for. `host_abi_version` is the newest that the host knows; NULL refuses it. */
const struct ghost_plugin_v1 *ghost_plugin_v1_entry(uint32_t host_abi_version);

#ifdef __cplusplus
}
#endif

#endif
