// Copyright: Contributors to the vfio.isolation project
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// storm CHAINS RATE SECONDS: short-lived processes, RATE a second in all, each the child of the one before, which ends
// as soon as it has forked. So no process of a chain lives long enough to be caught by its id from an old list.
// Prints the number of processes at the end.

#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// All links share their memory, which makes a fork cheap. Each has a stack, which the 64th after it uses again.
enum { CHAINS = 64, STACKS = 64, STACK = 1 << 14 };

static char stacks[CHAINS][STACKS][STACK] __attribute__((aligned(16)));
static volatile long links[CHAINS];
static double began, seconds, pause_of_link;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int link_of(void *chain) {
    long number = (long)chain;
    double due = began + (links[number] + 1) * pause_of_link - now();

    if (due > 0)
        usleep(due * 1e6);
    if (now() < began + seconds) {
        char *stack = stacks[number][++links[number] % STACKS] + STACK;
        clone(link_of, stack, CLONE_VM | SIGCHLD, chain);
    }
    _exit(0);
}

int main(int argc, char **argv) {
    int chains = atoi(argv[1]);
    long forked = 0;

    if (argc != 4 || chains > CHAINS)
        return 2;
    signal(SIGCHLD, SIG_IGN);
    seconds = atoi(argv[3]);
    pause_of_link = (double)chains / atoi(argv[2]);
    began = now();
    for (long chain = 0; chain < chains; chain++)
        clone(link_of, stacks[chain][0] + STACK, CLONE_VM | SIGCHLD, (void *)chain);
    while (now() < began + seconds + 1)
        usleep(100000);
    for (int chain = 0; chain < chains; chain++)
        forked += links[chain];
    printf("%ld\n", forked);
    return 0;
}
