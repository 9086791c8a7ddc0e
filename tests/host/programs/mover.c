// Copyright: Contributors to the vfio.isolation project
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// mover SOURCE TARGET: writes every id that the file SOURCE lists to the file TARGET, and nothing else: the least that
// moving tasks can cost. Prints the ids, the seconds that all of it took, and those of them that the kernel took.

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char ids[20000][16];
    int number = 0, refused = 0;
    struct timespec began, ended;
    struct rusage used;

    (void)argc;
    clock_gettime(CLOCK_MONOTONIC, &began);
    FILE *source = fopen(argv[1], "r");
    int target = open(argv[2], O_WRONLY);
    if (!source || target < 0) {
        perror("open");
        return 1;
    }
    while (number < 20000 && fgets(ids[number], 16, source))
        number++;
    for (int id = 0; id < number; id++)
        if (write(target, ids[id], strlen(ids[id])) < 0)
            refused++;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    getrusage(RUSAGE_SELF, &used);
    printf("%d %.4f %.4f\n", number - refused,
           ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) / 1e9,
           used.ru_stime.tv_sec + used.ru_stime.tv_usec / 1e6);
    return 0;
}
