/*
 * The interface of the ghost process of 2005, in use: disk_checkpoint and disk_restart, nearly line by line as its paper
 * ("Ghost Process", ISPDC 2005) gives them, and a main around the two.
 *
 *     cc -I include examples/seed.c -L target/release -lghost -o seed
 *     LD_LIBRARY_PATH=target/release ./seed checkpoint PID    writes checkpoint-PID.ghost here; PID runs on
 *     LD_LIBRARY_PATH=target/release ./seed restart PID       ends PID where it still runs, and makes it again of that file
 *
 * What differs from the paper: names begin with ghost_, and every call can fail and says why.
 */
#include <ghost.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* The file of a checkpoint; its id is the pid. */
static const char *checkpoint_file(int checkpoint_id)
{
    static char name[64];
    snprintf(name, sizeof name, "checkpoint-%d.ghost", checkpoint_id);
    return name;
}

static int fail(ghost_t ghost)
{
    fprintf(stderr, "seed: %s\n", ghost_last_error());
    int kind = ghost_error_kind();
    ghost_destroy_ghost(ghost);
    return kind;
}

/* A process into a file. The ghost comes back; the process runs on. */
ghost_t disk_checkpoint(pid_t pid)
{
    ghost_t ghost = ghost_create_new_ghost();
    if (ghost_plug_resource_interface(GHOST_DISK_WRITE, ghost) < 0 ||
        ghost_associate_file_to_ghost(checkpoint_file(pid), ghost) < 0 ||
        ghost_export_process(ghost, pid) < 0) {
        exit(fail(ghost));
    }
    return ghost;
}

/* A process out of a file; one that still runs under its pid is ended first. */
void disk_restart(int checkpoint_id)
{
    ghost_t ghost = ghost_create_new_ghost();
    int pid;
    if (ghost_plug_resource_interface(GHOST_DISK_READ, ghost) < 0 ||
        ghost_associate_file_to_ghost(checkpoint_file(checkpoint_id), ghost) < 0 ||
        ghost_set_option(GHOST_OPTION_REPLACE_PROCESS, 1, ghost) < 0 ||
        ghost_set_option(GHOST_OPTION_DETACH, 1, ghost) < 0 || /* it outlives this program */
        (pid = ghost_import_process(ghost)) < 0) {
        exit(fail(ghost));
    }
    if (*ghost_notes(ghost))
        fprintf(stderr, "seed: %s\n", ghost_notes(ghost));
    printf("%d\n", pid);
    ghost_destroy_ghost(ghost);
}

int main(int argc, char **argv)
{
    int pid = argc == 3 ? atoi(argv[2]) : 0;
    if (pid > 0 && strcmp(argv[1], "checkpoint") == 0) {
        ghost_t ghost = disk_checkpoint(pid);
        if (*ghost_notes(ghost))
            fprintf(stderr, "seed: %s\n", ghost_notes(ghost));
        printf("%s, %llu bytes\n", checkpoint_file(pid), (unsigned long long)ghost_size_bytes(ghost));
        ghost_destroy_ghost(ghost);
        return 0;
    }
    if (pid > 0 && strcmp(argv[1], "restart") == 0) {
        disk_restart(pid);
        return 0;
    }
    fprintf(stderr, "usage: seed checkpoint|restart PID\n");
    return GHOST_USAGE;
}
