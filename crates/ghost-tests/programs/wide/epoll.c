/* What an event loop rests on: epoll by hand, edge-triggered and one-shot, an eventfd, unix pairs, worker threads; static. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WORKERS = 8, ROUNDS = 500, WAKE = 1000 };

static int wake;

static int read_word(int fd, uint64_t *word)
{
    size_t got = 0;
    while (got < sizeof *word) {
        ssize_t n = read(fd, (char *)word + got, sizeof *word - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        got += n;
    }
    return 1;
}

static void write_word(int fd, uint64_t word)
{
    ssize_t n;
    do
        n = write(fd, &word, sizeof word);
    while (n < 0 && errno == EINTR);
    assert(n == sizeof word);
}

static void *work(void *its)
{
    int fd = (int)(intptr_t)its;
    uint64_t x;
    while (read_word(fd, &x)) {
        for (int i = 0; i < 30000; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        write_word(fd, x);
        write_word(wake, 1);
    }
    return NULL;
}

static void watch(int ep, int op, int fd, uint64_t data, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    assert(epoll_ctl(ep, op, fd, &e) == 0);
}

int main(void)
{
    int ep = epoll_create1(EPOLL_CLOEXEC), mine[WORKERS];
    uint64_t values[WORKERS], wakes = 0, word;
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert(ep >= 0 && wake >= 0);
    watch(ep, EPOLL_CTL_ADD, wake, WAKE, EPOLLIN | EPOLLET);
    for (int n = 0; n < WORKERS; n++) {
        int pair[2];
        pthread_t thread;
        assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        watch(ep, EPOLL_CTL_ADD, mine[n] = pair[0], n, EPOLLIN | EPOLLONESHOT);
        values[n] = 88172645463325252u + n;
        assert(pthread_create(&thread, NULL, work, (void *)(intptr_t)pair[1]) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int n = 0; n < WORKERS; n++)
            write_word(mine[n], values[n]);
        for (int left = WORKERS; left > 0;) {
            struct epoll_event events[16];
            int found = epoll_wait(ep, events, 16, 10000);
            if (found < 0 && errno == EINTR)
                continue;
            assert(found > 0);
            for (int i = 0; i < found; i++) {
                uint64_t at = events[i].data.u64;
                if (at == WAKE) {
                    if (read_word(wake, &word))
                        wakes += word;
                    continue;
                }
                assert(read_word(mine[at], &values[at]));
                left--;
                watch(ep, EPOLL_CTL_MOD, mine[at], at, EPOLLIN | EPOLLONESHOT);
            }
        }
        uint64_t all = 0;
        for (int n = 0; n < WORKERS; n++)
            all = (all << 5 | all >> 59) ^ values[n];
        printf("%d %016llx\n", round, (unsigned long long)all);
        fflush(stdout);
    }
    while (wakes < WORKERS * ROUNDS)
        if (read_word(wake, &word))
            wakes += word;
    printf("%llu\n", (unsigned long long)wakes);
    return 0;
}
