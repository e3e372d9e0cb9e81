/* A program taken there and back by C: compressed, with a file that has another name, and over a socket to another process.
 * Runs in a pid namespace of its own. Exits 0, or says the first thing that differs. */
#define _GNU_SOURCE
#include <ghost.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(x) do { if (!(x)) { \
    fprintf(stderr, "journey.c:%d: %s\nlast error (%d): %s\n", __LINE__, #x, ghost_error_kind(), ghost_last_error()); exit(1); } } while (0)
#define SAYS(answer, words) (strstr(ghost_error_answer(answer), words) != NULL)

enum { PAGES = 256 * 4096 };

/* Writes its count into a file, over and over, as long as its memory is what it was. */
static pid_t start(const char *log)
{
    unlink(log); /* what it holds is of an earlier one */
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0), dup2(null, 1), dup2(null, 2);
        for (int i = 3; i < 1024; i++)
            close(i);
        int fd = open(log, O_RDWR | O_CREAT | O_TRUNC, 0600);
        unsigned char *kept = malloc(PAGES);
        for (int i = 0; i < PAGES; i++)
            kept[i] = i / 4096;
        for (unsigned n = 1;; n++) {
            for (int i = 0; i < PAGES; i += 512)
                if (kept[i] != (unsigned char)(i / 4096))
                    _exit(1);
            if (pwrite(fd, &n, sizeof n, 0) != sizeof n)
                _exit(2);
            usleep(1000);
        }
    }
    MUST(pid > 0);
    return pid;
}

static unsigned count(const char *log)
{
    unsigned n = 0;
    int fd = open(log, O_RDONLY);
    if (fd >= 0 && read(fd, &n, sizeof n) != sizeof n)
        n = 0;
    close(fd);
    return n;
}

/* It counts, from where it was and not from the beginning. */
static void goes_on(const char *log, unsigned from)
{
    for (int i = 0; i < 4000 && count(log) < from + 20; i++)
        usleep(2000);
    MUST(count(log) >= from + 20);
}

static void end(pid_t pid)
{
    int status;
    MUST(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static off_t size(const char *file)
{
    struct stat s;
    MUST(stat(file, &s) == 0);
    return s.st_size;
}

/* All three ways to write it; the import finds out by itself. */
static void compressed(const char *log, const char *image)
{
    pid_t pid = start(log);
    goes_on(log, 0);
    const long ways[] = {GHOST_COMPRESS_NONE, GHOST_COMPRESS_LZ4, GHOST_COMPRESS_ZSTD};
    off_t sizes[3];
    for (int i = 0; i < 3; i++) {
        ghost_t ghost = ghost_create_new_ghost();
        MUST(ghost_plug_resource_interface(GHOST_DISK_WRITE, ghost) == 0 && ghost_associate_file_to_ghost(image, ghost) == 0);
        MUST(ghost_set_option(GHOST_OPTION_COMPRESS, ways[i], ghost) == 0 && ghost_set_option(GHOST_OPTION_REPLACE_IMAGE, 1, ghost) == 0);
        MUST(ghost_set_option(GHOST_OPTION_COMPRESS, 77, ghost) == -1 && ghost_error_kind() == GHOST_USAGE);
        MUST(ghost_export_process(ghost, pid) == 0);
        unsigned at = count(log);
        sizes[i] = size(image);
        end(pid);
        MUST(ghost_plug_resource_interface(GHOST_DISK_READ, ghost) == 0 && ghost_associate_file_to_ghost(image, ghost) == 0);
        MUST(ghost_import_process(ghost) == pid);
        goes_on(log, at);
        ghost_destroy_ghost(ghost);
    }
    MUST(sizes[1] < sizes[0] / 2 && sizes[2] < sizes[0] / 2);
    end(pid);
}

/* The file that it writes to has moved. */
static void mapped(const char *log, const char *moved)
{
    pid_t pid = start(log);
    goes_on(log, 0);
    ghost_t ghost = ghost_create_new_ghost();
    MUST(ghost_plug_resource_object(GHOST_MEMORY_WRITE, ghost) == 0 && ghost_export_process(ghost, pid) == 0);
    unsigned at = count(log);
    end(pid);
    MUST(rename(log, moved) == 0 && ghost_plug_resource_object(GHOST_MEMORY_READ, ghost) == 0);
    MUST(ghost_import_process(ghost) == -1 && ghost_error_kind() == GHOST_FAILED && SAYS(GHOST_ANSWER_WHO, log));
    MUST(SAYS(GHOST_ANSWER_STATE, "nothing was left behind") && kill(pid, 0) == -1 && errno == ESRCH);
    /* A pid namespace needs a pid 1, which a library is not. */
    MUST(ghost_set_option(GHOST_OPTION_PIDS, GHOST_PIDS_NAMESPACE, ghost) == 0 && ghost_import_process(ghost) == -1);
    MUST(ghost_error_kind() == GHOST_REFUSED && SAYS(GHOST_ANSWER_WHY, "pid 1") && kill(pid, 0) == -1 && errno == ESRCH);
    MUST(ghost_set_option(GHOST_OPTION_PIDS, GHOST_PIDS_SAME, ghost) == 0);
    MUST(ghost_map_file(log, moved, ghost) == 0 && ghost_import_process(ghost) == pid);
    goes_on(moved, at);
    MUST(access(log, F_OK) == -1);
    end(pid);
    ghost_destroy_ghost(ghost);
}

/* Over a socket to another process, with new pids and, as both live in one pid namespace, with the same ones. */
static void migrated(const char *log, long pids)
{
    pid_t pid = start(log);
    goes_on(log, 0);
    int line[2], told[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) == 0 && pipe2(told, O_CLOEXEC) == 0);
    pid_t there = fork();
    if (there == 0) {
        close(line[0]);
        ghost_t ghost = ghost_create_new_ghost();
        MUST(ghost_set_option(GHOST_OPTION_PIDS, pids, ghost) == 0);
        pid_t here = ghost_receive_process(ghost, line[1], line[1]);
        MUST(here > 0 && write(told[1], &here, sizeof here) == sizeof here);
        int status; /* its parent now */
        MUST(waitpid(here, &status, 0) == here && WIFSIGNALED(status));
        _exit(0);
    }
    close(line[1]);
    close(told[1]);
    /* The parent of the source waits for it as it ends: only then are its pids free. */
    pid_t reaper = fork();
    MUST(reaper >= 0);
    if (reaper == 0) {
        ghost_t ghost = ghost_create_new_ghost();
        MUST(ghost_migrate_process(ghost, pid, line[0], line[0]) >= 0);
        _exit(0);
    }
    close(line[0]);
    int status;
    MUST(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    unsigned at = count(log);
    pid_t here = 0;
    MUST(read(told[0], &here, sizeof here) == sizeof here && (here == pid) == (pids == GHOST_PIDS_SAME));
    close(told[0]);
    MUST(waitpid(reaper, &status, 0) == reaper && status == 0);
    goes_on(log, at);
    MUST(kill(here, SIGKILL) == 0 && waitpid(there, &status, 0) == there && status == 0);

    /* A peer that hangs up: the process runs on. */
    pid = start(log);
    goes_on(log, 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) == 0 && close(line[1]) == 0);
    ghost_t ghost = ghost_create_new_ghost();
    MUST(ghost_migrate_process(ghost, pid, line[0], line[0]) == -1 && ghost_error_kind() == GHOST_FAILED);
    close(line[0]);
    MUST(ghost_migrate_process(ghost, pid, -1, -1) == -1 && ghost_error_kind() == GHOST_USAGE);
    goes_on(log, count(log));
    end(pid);
    ghost_destroy_ghost(ghost);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    alarm(60);
    char log[512], moved[512], image[512];
    snprintf(log, sizeof log, "%s/log", argv[1]);
    snprintf(moved, sizeof moved, "%s/moved", argv[1]);
    snprintf(image, sizeof image, "%s/journey.ghost", argv[1]);
    compressed(log, image);
    mapped(log, moved);
    migrated(log, GHOST_PIDS_NEW);
    migrated(log, GHOST_PIDS_SAME);
    return 0;
}
