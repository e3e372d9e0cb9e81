/*
 * ghost: a process as something that can be exported, carried and imported again.
 *
 * The names are those of the ghost process of 2005 (Vallée, Lottiaux, Margery, Morin, Berthou), with `ghost_` before them.
 * A ghost is made, a resource is plugged into it, and a process is exported into or imported from it:
 *
 *     ghost_t ghost = ghost_create_new_ghost();
 *     ghost_plug_resource_interface(GHOST_DISK_WRITE, ghost);
 *     ghost_associate_file_to_ghost("/var/tmp/app.ghost", ghost);
 *     if (ghost_export_process(ghost, pid) < 0)
 *         fprintf(stderr, "%s\n", ghost_last_error());
 *     ghost_destroy_ghost(ghost);
 *
 * examples/seed.c is a whole program. Build with -lghost.
 *
 * The rules:
 *  - Pointers are NULL or valid; a NULL that is not allowed is an error (GHOST_USAGE), never a crash. Strings are UTF-8 (names of
 *    files in ghost_map_file: any bytes) and end with a zero byte; they are copied.
 *  - A ghost is used by one thread at a time; a second one gets an error. Different ghosts may be used at the same time.
 *    All work of one export or import happens in the thread that called, which is the tracer of the processes meanwhile.
 *  - While an export or import runs, the caller must not wait for any child (waitpid(-1), SIGCHLD handlers that reap): wait
 *    for pids that you know.
 *  - Errors belong to the thread. Every function that can fail sets them, and forgets the one before when it works.
 *  - If the caller is killed at any moment, a process that is being exported runs on.
 *  - SIGPIPE is kept from the calling thread during a call.
 *
 * Made from crates/ghost-capi by cbindgen: change it there.
 */

#ifndef GHOST_H
#define GHOST_H

#include <stdint.h>
#include "ghost_plugin.h"

// Class: export over the network; the address is HOST:PORT of an importing end that listens.
#define GHOST_NETWORK_SEND 1

// Class: import from the network; the address is HOST:PORT to listen on.
#define GHOST_NETWORK_RECEIVE 2

// Class: export into memory. As an object it is the ghost's own and goes with it; as an interface, with a name as address,
// it is kept for whoever imports that name until the next boot.
#define GHOST_MEMORY_WRITE 3

// Class: import from memory, the other side of GHOST_MEMORY_WRITE.
#define GHOST_MEMORY_READ 4

// Class: export to a file.
#define GHOST_DISK_WRITE 5

// Class: import from a file.
#define GHOST_DISK_READ 6

// Class: export into a pipe; the address is a descriptor number. As an object it is the standard output.
#define GHOST_PIPE_WRITE 7

// Class: import from a pipe; the address is a descriptor number. As an object it is the standard input.
#define GHOST_PIPE_READ 8

// The first class that is not ghost's: programmers choose theirs from here on.
#define GHOST_FIRST_OWN_CLASS 65536

// Error kind: the last call worked.
#define GHOST_OK 0

// Error kind: it should have worked.
#define GHOST_FAILED 1

// Error kind: the call was wrong (a null pointer, an unknown class, nothing plugged in).
#define GHOST_USAGE 2

// Error kind: this process or ghost cannot be carried; nothing was touched.
#define GHOST_REFUSED 3

// Answer: what was being done.
#define GHOST_ANSWER_WHAT 0

// Answer: to which process and object. Of a refusal with several reasons this and the next two have a line for each.
#define GHOST_ANSWER_WHO 1

// Answer: why it failed.
#define GHOST_ANSWER_WHY 2

// Answer: what the user can do.
#define GHOST_ANSWER_TRY 3

// Answer: in what state things were left.
#define GHOST_ANSWER_STATE 4

// Option: what becomes of the process once its ghost is whole, GHOST_AFTER_*.
#define GHOST_OPTION_AFTER 1

// Option: which pids the new processes get, GHOST_PIDS_*.
#define GHOST_OPTION_PIDS 2

// Option: 1 replaces an image that is there already, when the new one is whole.
#define GHOST_OPTION_REPLACE_IMAGE 3

// Option: 1 ends a process that runs under the ghost's pid before the import.
#define GHOST_OPTION_REPLACE_PROCESS 4

// Option: 0 does not wait until the image would survive a power cut.
#define GHOST_OPTION_DURABLE 5

// Option: 1 if the caller is going to end before the new process does.
#define GHOST_OPTION_DETACH 6

// Option: how many milliseconds an import waits for pids of processes that are going away.
#define GHOST_OPTION_WAIT_FOR_PIDS_MS 7

// Option: how an export is compressed, GHOST_COMPRESS_*. An import finds it out by itself.
#define GHOST_OPTION_COMPRESS 8

// It runs on (the default).
#define GHOST_AFTER_RUN 0

// It is left stopped, as by SIGSTOP.
#define GHOST_AFTER_STOP 1

// It ends as by SIGKILL.
#define GHOST_AFTER_KILL 2

// The same pids (the default).
#define GHOST_PIDS_SAME 0

// Any that are free: a duplicate beside the original.
#define GHOST_PIDS_NEW 1

// The same, in a pid namespace of their own.
#define GHOST_PIDS_NAMESPACE 2

// Not compressed (the default).
#define GHOST_COMPRESS_NONE 0

// LZ4, fast.
#define GHOST_COMPRESS_LZ4 1

// Zstandard, smaller.
#define GHOST_COMPRESS_ZSTD 2

// A process on its way.
struct ghost_handle;

// A ghost.
typedef struct ghost_handle *ghost_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, `MAJOR.MINOR.PATCH`; a constant.
const char *ghost_version(void);

// Makes a ghost that holds nothing and has nothing plugged in; NULL if that fails.
ghost_t ghost_create_new_ghost(void);

// Gives a ghost up. Files that it was exported to stay; memory of its own (GHOST_MEMORY_WRITE as an object) goes. NULL is
// allowed.
void ghost_destroy_ghost(ghost_t ghost);

// Plugs the functions of a class into the ghost: where it goes to or comes from. Say the file or address with
// `ghost_associate_file_to_ghost` or `ghost_associate_address_to_ghost`. What was plugged before is given up. Returns 0, or -1.
int ghost_plug_resource_interface(unsigned int class_id,
                                  ghost_t ghost);

// Plugs a resource that needs no address into the ghost: memory of its own, the standard pipe, the only place of a class of
// yours. Returns 0, or -1.
int ghost_plug_resource_object(unsigned int class_id,
                               ghost_t ghost);

// Says which file the plugged disk class works on; nothing is opened before the export or import. Returns 0, or -1.
int ghost_associate_file_to_ghost(const char *file, ghost_t ghost);

// Says which address the plugged class works on: HOST:PORT, a name, a descriptor number, or what a class of yours calls an
// address. Returns 0, or -1.
int ghost_associate_address_to_ghost(const char *address,
                                     ghost_t ghost);

// Registers a class of your own for this program: a table of functions as in `ghost_plugin.h`, with its two class ids. The
// table and its strings must stay for ever. Returns 0, or -1.
int ghost_register_resource_class(const struct ghost_plugin_v1 *table);

// Loads a class of somebody's from a shared library, as `ghost --plugin` does. Its code is trusted like your own. Returns 0,
// or -1.
int ghost_load_resource_class(const char *library);

// Sets an option, GHOST_OPTION_*. Returns 0, or -1.
int ghost_set_option(unsigned int option, long value, ghost_t ghost);

// Accepts that things of this kind are lost, at the export or the import, instead of being refused. Returns 0, or -1.
int ghost_accept_loss(const char *kind, ghost_t ghost);

// Says that a file has another name where the ghost is imported. Returns 0, or -1.
int ghost_map_file(const char *old_name, const char *new_name, ghost_t ghost);

// Leaves a descriptor of the process behind at the export, `pipe:[123]` or `fd:5`; the import is handed another one by
// `ghost_hand_over_descriptor` under the same name. Returns 0, or -1.
int ghost_leave_descriptor(const char *description, ghost_t ghost);

// Hands a descriptor over to the new processes in place of one that was left behind; the caller keeps its own. Returns 0, or -1.
int ghost_hand_over_descriptor(const char *name,
                               int descriptor,
                               ghost_t ghost);

// Looks whether the process and all below it could be exported, and touches nothing. Returns 0, or -1 with every reason in the
// last error (GHOST_REFUSED).
int ghost_check_process(int process);

// Extracts the process and all below it into the ghost. Returns 0, or -1; then the process runs on as before and no ghost was
// made.
int ghost_export_process(ghost_t ghost,
                         int process);

// Makes processes of the ghost. Returns the pid of the first, which is a child of the caller (wait for it), or -1; then nothing
// was left behind and the ghost is as it was.
int ghost_import_process(ghost_t ghost);

// Moves the process and all below it to another ghost, over two descriptors (one socket may be both), with no file at either
// end: never two run, never none. Needs no resource plugged in. Returns the pid there, or -1.
int ghost_migrate_process(ghost_t ghost,
                          int process,
                          int from_peer,
                          int to_peer);

// Receives what `ghost_migrate_process` or `ghost migrate` sends. Returns the pid here, which is a child of the caller, or -1.
int ghost_receive_process(ghost_t ghost,
                          int from_peer,
                          int to_peer);

// The size in bytes of what this ghost exported last; 0 if nothing, or on an error.
uint64_t ghost_size_bytes(ghost_t ghost);

// What the last export or import of this ghost could not keep, or thought worth saying: a line each, empty if nothing. Valid
// until the next call on this ghost; NULL on an error.
const char *ghost_notes(ghost_t ghost);

// What kind of error ended the last call of this thread: GHOST_OK, GHOST_FAILED, GHOST_USAGE or GHOST_REFUSED.
int ghost_error_kind(void);

// The last error of this thread, with its five answers in lines for people; empty if the last call worked. Valid until the
// next call of this thread.
const char *ghost_last_error(void);

// One of the five answers of the last error of this thread, GHOST_ANSWER_*; empty where there is none. Valid until the next
// call of this thread.
const char *ghost_error_answer(unsigned int answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GHOST_H */
