/* Two ranks that hand an array to and fro, and a reduction. */
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv) {
    int rank, size;
    static double a[20000];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int i = 0; i < 20000; i++) a[i] = rank + i;
    for (int round = 0; round < 400; round++) {
        double sum = 0, all;
        MPI_Sendrecv_replace(a, 20000, MPI_DOUBLE, (rank + 1) % size, 0, (rank + size - 1) % size, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        for (int i = 0; i < 20000; i++) { a[i] = a[i] * 0.999 + 1; sum += a[i]; }
        MPI_Allreduce(&sum, &all, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        if (rank == 0) { printf("%d %.6f\n", round, all); fflush(stdout); }
    }
    MPI_Finalize();
    return 0;
}
