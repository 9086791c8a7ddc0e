// Copyright: Contributors to the vfio.isolation project
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// sleepers NUMBER: that many processes that sleep. Prints "ready" when all are there; ends them, and then itself, when its
// standard input ends.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int number = argc == 2 ? atoi(argv[1]) : 0;
    pid_t *children = calloc(number, sizeof(pid_t));

    signal(SIGCHLD, SIG_IGN); // they are nobody's to wait for
    for (int child = 0; child < number; child++) {
        children[child] = fork();
        if (children[child] < 0) {
            perror("fork");
            number = child;
            break;
        }
        if (children[child] == 0) {
            pause();
            _exit(0);
        }
    }
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    for (int child = 0; child < number; child++)
        kill(children[child], SIGKILL);
    while (wait(NULL) >= 0)
        ;
    return 0;
}
