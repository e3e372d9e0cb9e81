/* What a C program may do wrong at the border, and what it can rely on. Exits 0, or says the first thing that differs. */
#include <ghost.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int line;
#define MUST(x) do { line = __LINE__; if (!(x)) { \
    fprintf(stderr, "border.c:%d: %s\nlast error (%d): %s\n", line, #x, ghost_error_kind(), ghost_last_error()); exit(1); } } while (0)
#define SAYS(answer, words) (strstr(ghost_error_answer(answer), words) != NULL)

/* A class of our own: one place in memory. */
static char *image;
static size_t length, room, at;
static int aborted;
static int open_export(const char *address, uint32_t flags, void **stream, char *error, size_t size)
{
    (void)flags;
    if (strcmp(address, "full") == 0) {
        snprintf(error, size, "no room in the ark");
        return GHOST_PLUGIN_FAILED;
    }
    length = 0;
    *stream = &image;
    return GHOST_PLUGIN_OK;
}
static int64_t take(void *stream, const void *bytes, size_t len, char *error, size_t size)
{
    (void)stream, (void)error, (void)size;
    if (length + len > room)
        image = realloc(image, room = 2 * (length + len));
    memcpy(image + length, bytes, len);
    length += len;
    return (int64_t)len;
}
static int finish(void *stream, struct ghost_plugin_written *written, char *error, size_t size)
{
    (void)stream, (void)error, (void)size;
    written->len_bytes = length;
    return GHOST_PLUGIN_OK;
}
static void take_back(void *stream) { (void)stream; aborted++; length = 0; }
static int open_import(const char *address, void **stream, char *error, size_t size)
{
    (void)address, (void)error, (void)size;
    at = 0;
    *stream = &image;
    return length ? GHOST_PLUGIN_OK : GHOST_PLUGIN_MISSING;
}
static int64_t give(void *stream, void *bytes, size_t size, char *error, size_t error_size)
{
    (void)stream, (void)error, (void)error_size;
    size_t n = length - at < size ? length - at : size;
    memcpy(bytes, image + at, n);
    at += n;
    return (int64_t)n;
}
static void end(void *stream) { (void)stream; }
static const struct ghost_plugin_v1 ark = {
    .abi_version = GHOST_PLUGIN_ABI_VERSION, .size = sizeof ark, .name = "ark 1.0", .scheme = "ark",
    .class_write = GHOST_FIRST_OWN_CLASS + 7, .class_read = GHOST_FIRST_OWN_CLASS + 8,
    .open_export = open_export, .write = take, .finish = finish, .abort = take_back,
    .open_import = open_import, .read = give, .close = end,
};

static void *other_thread(void *ghost)
{
    /* Errors belong to the thread that made them. */
    return (void *)(long)(ghost_error_kind() == GHOST_OK && *ghost_last_error() == 0 && ghost_set_option(99, 0, ghost) == -1);
}

static void wrong_calls(void)
{
    ghost_t ghost = ghost_create_new_ghost();
    MUST(ghost != NULL && ghost_error_kind() == GHOST_OK);
    MUST(strchr(ghost_version(), '.') != NULL);
    ghost_destroy_ghost(NULL);
    MUST(ghost_error_kind() == GHOST_OK);

    /* Null pointers. */
    MUST(ghost_export_process(NULL, 1) == -1 && ghost_error_kind() == GHOST_USAGE && SAYS(GHOST_ANSWER_WHY, "the ghost is a null pointer"));
    MUST(ghost_import_process(NULL) == -1 && ghost_error_kind() == GHOST_USAGE);
    MUST(ghost_plug_resource_interface(GHOST_DISK_WRITE, NULL) == -1);
    MUST(ghost_plug_resource_object(GHOST_MEMORY_WRITE, NULL) == -1);
    MUST(ghost_associate_file_to_ghost(NULL, ghost) == -1 && SAYS(GHOST_ANSWER_WHY, "the file is a null pointer"));
    MUST(ghost_associate_address_to_ghost(NULL, ghost) == -1);
    MUST(ghost_accept_loss(NULL, ghost) == -1);
    MUST(ghost_map_file("/a", NULL, ghost) == -1 && SAYS(GHOST_ANSWER_WHY, "the new name"));
    MUST(ghost_leave_descriptor(NULL, ghost) == -1);
    MUST(ghost_hand_over_descriptor("out", -1, ghost) == -1 && ghost_hand_over_descriptor("out", 9999, ghost) == -1);
    MUST(SAYS(GHOST_ANSWER_WHY, "9999"));
    MUST(ghost_register_resource_class(NULL) == -1);
    MUST(ghost_load_resource_class(NULL) == -1);
    MUST(ghost_load_resource_class("/nowhere/plugin.so") == -1 && ghost_error_kind() == GHOST_FAILED);
    MUST(ghost_size_bytes(NULL) == 0 && ghost_notes(NULL) == NULL && ghost_error_kind() == GHOST_USAGE);
    MUST(ghost_associate_address_to_ghost("\xff\xfe", ghost) == -1 && SAYS(GHOST_ANSWER_WHY, "UTF-8"));

    /* Numbers that mean nothing, and five answers. */
    MUST(ghost_plug_resource_interface(77, ghost) == -1 && ghost_error_kind() == GHOST_USAGE);
    MUST(SAYS(GHOST_ANSWER_WHAT, "plugging") && SAYS(GHOST_ANSWER_WHY, "0x4d") && SAYS(GHOST_ANSWER_TRY, "DISK_WRITE"));
    MUST(SAYS(GHOST_ANSWER_STATE, "nothing was touched") && *ghost_error_answer(5) == 0);
    MUST(strstr(ghost_last_error(), "0x4d") != NULL);
    MUST(ghost_set_option(99, 0, ghost) == -1 && ghost_set_option(GHOST_OPTION_AFTER, 3, ghost) == -1);
    MUST(ghost_set_option(GHOST_OPTION_WAIT_FOR_PIDS_MS, -1, ghost) == -1);
    MUST(ghost_set_option(GHOST_OPTION_DURABLE, 2, ghost) == -1);
    pthread_t t;
    void *fine;
    MUST(pthread_create(&t, NULL, other_thread, ghost) == 0 && pthread_join(t, &fine) == 0 && fine != NULL);

    /* Nothing plugged, nothing associated, the wrong way round. */
    MUST(ghost_export_process(ghost, getppid()) == -1 && SAYS(GHOST_ANSWER_WHY, "no resource is plugged"));
    MUST(ghost_plug_resource_interface(GHOST_DISK_WRITE, ghost) == 0 && ghost_error_kind() == GHOST_OK);
    MUST(ghost_export_process(ghost, getppid()) == -1 && SAYS(GHOST_ANSWER_WHY, "no file or address"));
    MUST(ghost_associate_file_to_ghost("/nowhere/here.ghost", ghost) == 0);
    MUST(ghost_import_process(ghost) == -1 && SAYS(GHOST_ANSWER_WHY, "can only be written to"));
    MUST(ghost_plug_resource_interface(GHOST_DISK_READ, ghost) == 0);
    MUST(ghost_export_process(ghost, 1) == -1 && SAYS(GHOST_ANSWER_WHY, "can only be read from"));
    MUST(ghost_import_process(ghost) == -1 && ghost_error_kind() == GHOST_FAILED && SAYS(GHOST_ANSWER_STATE, "nothing was touched"));
    MUST(ghost_plug_resource_object(GHOST_DISK_READ, ghost) == -1);
    MUST(ghost_plug_resource_object(GHOST_MEMORY_READ, ghost) == 0);
    MUST(ghost_import_process(ghost) == -1 && ghost_error_kind() == GHOST_FAILED); /* its memory is empty */
    MUST(ghost_associate_file_to_ghost("/a", ghost) == -1 && SAYS(GHOST_ANSWER_WHY, "which is no disk"));
    ghost_destroy_ghost(ghost);
}

/* A child that counts into a pipe of its own and never ends. */
static pid_t start(int counter[2])
{
    MUST(pipe(counter) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0), dup2(null, 1), dup2(null, 2);
        for (unsigned i = 3; i < 1024; i++) /* what the test itself inherited, too */
            if ((int)i != counter[1])
                close(i);
        for (unsigned n = 0;; n++) {
            usleep(2000);
            if (write(counter[1], &n, sizeof n) != sizeof n)
                _exit(1);
        }
    }
    MUST(pid > 0);
    close(counter[1]);
    return pid;
}

static void goes_on(int counter[2], const char *when)
{
    unsigned last = 0, n;
    for (int i = 0; i < 8; i++) {
        if (read(counter[0], &n, sizeof n) != sizeof n || (i && n != last + 1)) {
            fprintf(stderr, "the child does not go on %s\n", when);
            exit(1);
        }
        last = n;
    }
}

static void own_classes(const char *dir)
{
    struct ghost_plugin_v1 bad = ark;
    bad.abi_version = 9;
    MUST(ghost_register_resource_class(&bad) == -1 && SAYS(GHOST_ANSWER_WHY, "version 9"));
    MUST(ghost_register_resource_class(&ark) == 0);
    MUST(ghost_register_resource_class(&ark) == -1 && ghost_error_kind() == GHOST_FAILED); /* taken */

    int counter[2];
    pid_t pid = start(counter);
    goes_on(counter, "at first");
    char leave[64];
    snprintf(leave, sizeof leave, "fd:%d", counter[0] + 1);

    /* A place of ours that refuses: nothing happened to the process. */
    ghost_t ghost = ghost_create_new_ghost();
    MUST(ghost_plug_resource_interface(ark.class_write, ghost) == 0 && ghost_leave_descriptor(leave, ghost) == 0);
    MUST(ghost_associate_address_to_ghost("full", ghost) == 0 && ghost_export_process(ghost, pid) == -1);
    MUST(ghost_error_kind() == GHOST_FAILED && SAYS(GHOST_ANSWER_WHY, "no room in the ark"));
    goes_on(counter, "after a place refused it");

    /* The pipe leads outside and nobody said that it may stay behind: a refusal, and no image. */
    ghost_t strict = ghost_create_new_ghost();
    MUST(ghost_plug_resource_object(ark.class_write, strict) == 0);
    MUST(ghost_check_process(pid) == -1 && ghost_error_kind() == GHOST_REFUSED && SAYS(GHOST_ANSWER_WHO, "fd "));
    MUST(ghost_export_process(strict, pid) == -1 && ghost_error_kind() == GHOST_REFUSED);
    MUST(SAYS(GHOST_ANSWER_WHO, "fd ") && SAYS(GHOST_ANSWER_STATE, "nothing was touched") && aborted == 1 && length == 0);
    goes_on(counter, "after a refusal");
    ghost_destroy_ghost(strict);

    /* And the whole way out, into our own class, into a file, into the ghost's own memory. */
    MUST(ghost_associate_address_to_ghost("", ghost) == 0 && ghost_export_process(ghost, pid) == 0);
    MUST(length > 0 && ghost_size_bytes(ghost) == length);
    goes_on(counter, "after an export into a class of ours");
    char file[512];
    snprintf(file, sizeof file, "%s/border.ghost", dir);
    MUST(ghost_plug_resource_interface(GHOST_DISK_WRITE, ghost) == 0 && ghost_associate_file_to_ghost(file, ghost) == 0);
    MUST(ghost_export_process(ghost, pid) == 0 && access(file, F_OK) == 0);
    MUST(ghost_export_process(ghost, pid) == -1 && SAYS(GHOST_ANSWER_WHY, "it exists already"));
    MUST(ghost_set_option(GHOST_OPTION_REPLACE_IMAGE, 1, ghost) == 0 && ghost_export_process(ghost, pid) == 0);
    MUST(ghost_plug_resource_object(GHOST_MEMORY_WRITE, ghost) == 0 && ghost_export_process(ghost, pid) == 0);
    MUST(ghost_size_bytes(ghost) > 0);
    goes_on(counter, "after three exports");

    /* A pipe whose reader has gone is an error, not our end by SIGPIPE. */
    int broken[2];
    char number[16];
    MUST(pipe(broken) == 0 && close(broken[0]) == 0);
    snprintf(number, sizeof number, "%d", broken[1]);
    MUST(ghost_plug_resource_interface(GHOST_PIPE_WRITE, ghost) == 0 && ghost_associate_address_to_ghost(number, ghost) == 0);
    MUST(ghost_export_process(ghost, pid) == -1 && ghost_error_kind() == GHOST_FAILED);
    goes_on(counter, "after a broken pipe");
    sigset_t pending;
    MUST(sigpending(&pending) == 0 && !sigismember(&pending, SIGPIPE));

    MUST(kill(pid, 0) == 0 && kill(pid, SIGKILL) == 0);
    int status;
    MUST(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ghost_destroy_ghost(ghost);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    alarm(60);
    wrong_calls();
    own_classes(argv[1]);
    return 0;
}
