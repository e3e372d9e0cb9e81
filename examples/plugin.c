/*
 * chunks:DIR, a place for ghosts that keeps an image as numbered files of 1 MiB in a directory of its own: handy for
 * stores that like small files, and an example of a whole plug-in.
 *
 *     cc -shared -fPIC -O2 -Iinclude -o chunks.so examples/plugin.c
 *     ghost --plugin ./chunks.so checkpoint PID -o chunks:/backup/app
 *
 * DIR holds 000000, 000001, … and `total`, the image's length in bytes as text. It is written as DIR.PID.new and gets
 * its name when it is whole, so half an image is never seen.
 */
#define _GNU_SOURCE
#include "ghost_plugin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES ((uint64_t)1 << 20)

struct stream {
    char dir[PATH_MAX];   /* where the chunks are now */
    char final[PATH_MAX]; /* where they are to be */
    uint32_t flags;
    uint64_t at;    /* bytes written or read so far */
    uint64_t total; /* when reading: all there are */
    int fd;         /* the chunk at `at`, or -1 */
    int home;       /* when reading: the directory, which keeps a new image of the same name apart */
};

/* Says what failed on which file, and gives the code for it. */
static int fail(char *error, size_t error_size, const char *what, const char *path)
{
    int code = errno == ENOENT ? GHOST_PLUGIN_MISSING : GHOST_PLUGIN_FAILED;
    snprintf(error, error_size, "%s %s: %s", what, path, strerror(errno));
    return code;
}

static int join(char *out, const char *dir, const char *name)
{
    int len = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    errno = ENAMETOOLONG;
    return len > 0 && len < PATH_MAX ? 0 : -1;
}

static void chunk_name(char name[24], uint64_t number)
{
    snprintf(name, 24, "%06llu", (unsigned long long)number);
}

static int has_image(const char *dir)
{
    char path[PATH_MAX];
    return join(path, dir, "total") == 0 && access(path, F_OK) == 0;
}

/* A file that is ours: a chunk, or the total. Anything else in the directory is left alone. */
static int is_ours(const char *name)
{
    return strcmp(name, "total") == 0 || (strlen(name) >= 6 && strspn(name, "0123456789") == strlen(name));
}

/* Removes our files, the total first (without it there is no image), then the directory. */
static int remove_image(const char *dir)
{
    char path[PATH_MAX];
    if (join(path, dir, "total") == 0)
        unlink(path);
    DIR *open = opendir(dir);
    if (!open)
        return -1;
    for (struct dirent *entry; (entry = readdir(open));)
        if (is_ours(entry->d_name))
            unlinkat(dirfd(open), entry->d_name, 0);
    closedir(open);
    return rmdir(dir);
}

static int sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

/* Waits for the directory that holds `path`. */
static int sync_parent(const char *path)
{
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash && slash != parent)
        *slash = 0;
    return sync_path(slash == parent ? "/" : slash ? parent : ".");
}

static int open_export(const char *address, uint32_t flags, void **stream, char *error, size_t error_size)
{
    struct stat st;
    if (lstat(address, &st) == 0) {
        if (!has_image(address)) {
            snprintf(error, error_size, "%s is there, and is no directory of chunks", address);
            return GHOST_PLUGIN_FAILED;
        }
        if (!(flags & GHOST_PLUGIN_REPLACE))
            return GHOST_PLUGIN_EXISTS;
    }
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return fail(error, error_size, "opening", address);
    s->flags = flags;
    s->fd = -1;
    int final_len = snprintf(s->final, sizeof s->final, "%s", address);
    int dir_len = snprintf(s->dir, sizeof s->dir, "%s.%d.new", address, (int)getpid());
    if (final_len >= PATH_MAX || dir_len >= PATH_MAX)
        errno = ENAMETOOLONG;
    else if (mkdir(s->dir, 0700) == 0) {
        *stream = s;
        return GHOST_PLUGIN_OK;
    }
    fail(error, error_size, "making", s->dir);
    free(s);
    return GHOST_PLUGIN_FAILED;
}

/* Ends the chunk that is open. */
static int end_chunk(struct stream *s)
{
    int rc = 0;
    if (s->fd >= 0) {
        if (s->flags & GHOST_PLUGIN_DURABLE)
            rc = fsync(s->fd);
        if (close(s->fd) != 0)
            rc = -1;
        s->fd = -1;
    }
    return rc;
}

static int64_t write_bytes(void *stream, const void *bytes, size_t len, char *error, size_t error_size)
{
    struct stream *s = stream;
    uint64_t room = CHUNK_BYTES - s->at % CHUNK_BYTES;
    if (room == CHUNK_BYTES) {
        char name[24], path[PATH_MAX];
        chunk_name(name, s->at / CHUNK_BYTES);
        if (end_chunk(s) != 0 || join(path, s->dir, name) != 0 ||
            (s->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0) {
            fail(error, error_size, "making a chunk in", s->dir);
            return GHOST_PLUGIN_FAILED;
        }
    }
    ssize_t done;
    do
        done = write(s->fd, bytes, len < room ? len : room);
    while (done < 0 && errno == EINTR);
    if (done < 0) {
        fail(error, error_size, "writing a chunk in", s->dir);
        return GHOST_PLUGIN_FAILED;
    }
    s->at += done;
    return done;
}

static void abort_export(void *stream)
{
    struct stream *s = stream;
    end_chunk(s);
    remove_image(s->dir);
    free(s);
}

static int write_total(struct stream *s)
{
    char path[PATH_MAX], text[32];
    int len = snprintf(text, sizeof text, "%llu\n", (unsigned long long)s->at);
    if (join(path, s->dir, "total") != 0 || (s->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0)
        return -1;
    return write(s->fd, text, len) == len ? end_chunk(s) : -1;
}

static int finish(void *stream, struct ghost_plugin_written *written, char *error, size_t error_size)
{
    struct stream *s = stream;
    int durable = (s->flags & GHOST_PLUGIN_DURABLE) != 0;
    int rc = end_chunk(s) == 0 && write_total(s) == 0 && (!durable || sync_path(s->dir) == 0) ? 0 : -1;
    if (rc == 0) {
        rc = renameat2(AT_FDCWD, s->dir, AT_FDCWD, s->final, RENAME_NOREPLACE);
        /* After an exchange the old image has our name, and is what abort_export removes. */
        if (rc != 0 && errno == EEXIST && (s->flags & GHOST_PLUGIN_REPLACE) &&
            renameat2(AT_FDCWD, s->dir, AT_FDCWD, s->final, RENAME_EXCHANGE) == 0)
            rc = 1;
    }
    if (rc < 0) {
        int code = errno == EEXIST ? GHOST_PLUGIN_EXISTS : GHOST_PLUGIN_FAILED;
        fail(error, error_size, "finishing", s->final);
        abort_export(s);
        return code;
    }
    written->len_bytes = s->at;
    written->durable = durable && sync_parent(s->final) == 0;
    if (rc == 1)
        abort_export(s);
    else
        free(s);
    return GHOST_PLUGIN_OK;
}

static int open_import(const char *address, void **stream, char *error, size_t error_size)
{
    char text[32] = "", *end;
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return fail(error, error_size, "opening", address);
    s->home = open(address, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    s->fd = s->home < 0 ? -1 : openat(s->home, "total", O_RDONLY | O_CLOEXEC);
    int code = GHOST_PLUGIN_OK;
    if (s->fd < 0 || read(s->fd, text, sizeof text - 1) < 0)
        code = fail(error, error_size, "opening", address);
    else if (s->total = strtoull(text, &end, 10), end == text || *end != '\n') {
        snprintf(error, error_size, "%s/total holds no number", address);
        code = GHOST_PLUGIN_FAILED;
    }
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    if (code != GHOST_PLUGIN_OK) {
        if (s->home >= 0)
            close(s->home);
        free(s);
        return code;
    }
    snprintf(s->dir, sizeof s->dir, "%s", address);
    *stream = s;
    return GHOST_PLUGIN_OK;
}

static int64_t read_bytes(void *stream, void *bytes, size_t size, char *error, size_t error_size)
{
    struct stream *s = stream;
    char name[24];
    if (s->at == s->total)
        return 0;
    chunk_name(name, s->at / CHUNK_BYTES);
    uint64_t left = CHUNK_BYTES - s->at % CHUNK_BYTES;
    if (s->fd < 0 || left == CHUNK_BYTES) {
        if (s->fd >= 0)
            close(s->fd);
        s->fd = openat(s->home, name, O_RDONLY | O_CLOEXEC);
        if (s->fd < 0) {
            snprintf(error, error_size, "opening chunk %s/%s: %s", s->dir, name, strerror(errno));
            return GHOST_PLUGIN_FAILED;
        }
    }
    if (left > s->total - s->at)
        left = s->total - s->at;
    ssize_t done;
    do
        done = read(s->fd, bytes, size < left ? size : left);
    while (done < 0 && errno == EINTR);
    if (done <= 0) {
        if (done < 0)
            fail(error, error_size, "reading a chunk in", s->dir);
        else
            snprintf(error, error_size, "chunk %s/%s is cut off", s->dir, name);
        return GHOST_PLUGIN_FAILED;
    }
    s->at += done;
    return done;
}

static void close_import(void *stream)
{
    struct stream *s = stream;
    if (s->fd >= 0)
        close(s->fd);
    close(s->home);
    free(s);
}

/* All images beside the one that is named. */
static int list(const char *address, ghost_plugin_entry_fn *entry, void *context, char *error, size_t error_size)
{
    char parent[PATH_MAX], path[PATH_MAX], total[PATH_MAX], url[PATH_MAX + 8];
    snprintf(parent, sizeof parent, "%s", address);
    char *slash = strrchr(parent, '/');
    if (slash)
        *slash = 0;
    DIR *open = opendir(!slash ? "." : slash == parent ? "/" : parent);
    if (!open)
        return fail(error, error_size, "listing", parent);
    for (struct dirent *found; (found = readdir(open));) {
        const char *dot = strrchr(found->d_name, '.');
        struct stat st;
        unsigned long long len = 0;
        if (found->d_name[0] == '.' || (dot && strcmp(dot, ".new") == 0))
            continue;
        if (slash ? join(path, parent, found->d_name) : !snprintf(path, sizeof path, "%s", found->d_name))
            continue;
        if (join(total, path, "total") != 0 || stat(total, &st) != 0)
            continue;
        FILE *file = fopen(total, "re");
        if (file && fscanf(file, "%llu", &len) == 1) {
            snprintf(url, sizeof url, "chunks:%s", path);
            entry(context, url, len, st.st_mtime);
        }
        if (file)
            fclose(file);
    }
    closedir(open);
    return GHOST_PLUGIN_OK;
}

static int exists(const char *address, char *error, size_t error_size)
{
    (void)error, (void)error_size;
    return has_image(address);
}

static int remove_one(const char *address, char *error, size_t error_size)
{
    if (!has_image(address))
        return GHOST_PLUGIN_MISSING;
    return remove_image(address) == 0 ? GHOST_PLUGIN_OK : fail(error, error_size, "removing", address);
}

static const struct ghost_plugin_v1 table = {
    .abi_version = GHOST_PLUGIN_ABI_VERSION,
    .size = sizeof table,
    .name = "chunks 1.0",
    .scheme = "chunks",
    .class_write = 0x10100,
    .class_read = 0x10101,
    .open_export = open_export,
    .write = write_bytes,
    .finish = finish,
    .abort = abort_export,
    .open_import = open_import,
    .read = read_bytes,
    .close = close_import,
    .list = list,
    .exists = exists,
    .remove = remove_one,
};

const struct ghost_plugin_v1 *ghost_plugin_v1_entry(uint32_t host_abi_version)
{
    return host_abi_version >= GHOST_PLUGIN_ABI_VERSION ? &table : NULL;
}
