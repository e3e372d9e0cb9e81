#!/bin/sh
# Makes a small C project here: a Makefile, N modules, a program that uses them all.
n=${1:-24}
{
    echo 'CFLAGS = -O2 -g0'
    printf 'prog: main.o'
    i=0; while [ $i -lt "$n" ]; do printf ' m%d.o' $i; i=$((i + 1)); done
    printf '\n\t$(CC) -o $@ $^\n'
} > Makefile
i=0
while [ $i -lt "$n" ]; do
    {
        echo '#include <stdint.h>'
        j=0
        while [ $j -lt 40 ]; do
            echo "static uint64_t f$j(uint64_t x) { for (int i = 0; i < $((j + 3)); i++) x = (x ^ (x >> $((j % 31 + 1)))) * $((i * 2 + 6364136 + j * 2 + 1))u + (x << $((j % 7 + 1))) / ($((j + 2))u | (x & 7)); return x; }"
            j=$((j + 1))
        done
        echo "uint64_t m$i(uint64_t x) {"
        j=0; while [ $j -lt 40 ]; do echo "    x = f$j(x) + $j;"; j=$((j + 1)); done
        echo '    return x;'
        echo '}'
    } > m$i.c
    i=$((i + 1))
done
{
    echo '#include <stdint.h>'
    echo '#include <stdio.h>'
    i=0; while [ $i -lt "$n" ]; do echo "uint64_t m$i(uint64_t);"; i=$((i + 1)); done
    echo 'static void show(uint64_t x) { for (int i = 60; i >= 0; i -= 4) putchar("0123456789abcdef"[x >> i & 15]); putchar(10); }'
    echo 'int main(void) {'
    echo '    uint64_t x = 1;'
    i=0; while [ $i -lt "$n" ]; do echo "    x = m$i(x); show(x);"; i=$((i + 1)); done
    echo '    return 0;'
    echo '}'
} > main.c
