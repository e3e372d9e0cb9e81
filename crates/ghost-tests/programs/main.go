// Goroutines over channels, a map, the garbage collector, timers, a file under way.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sort"
	"time"
)

func worker(in <-chan int, out chan<- [32]byte) {
	var sum [32]byte
	for n := range in {
		for i := 0; i < 300; i++ {
			sum = sha256.Sum256(append(sum[:], byte(n), byte(i)))
		}
		out <- sum
	}
	close(out)
}

func main() {
	log, err := os.Create("log")
	if err != nil {
		panic(err)
	}
	var ins []chan int
	var outs []chan [32]byte
	for i := 0; i < 20; i++ {
		in, out := make(chan int), make(chan [32]byte)
		go worker(in, out)
		ins, outs = append(ins, in), append(outs, out)
	}
	seen := map[string]int{}
	for round := 0; round < 200; round++ {
		for i, in := range ins {
			in <- round*31 + i
		}
		for _, out := range outs {
			sum := <-out
			seen[fmt.Sprintf("%x", sum[:2])]++
			fmt.Fprintf(log, "%x\n", sum)
		}
		fmt.Println(round, len(seen))
		time.Sleep(3 * time.Millisecond)
	}
	var keys []string
	for k := range seen {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	hash := sha256.New()
	log.Seek(0, io.SeekStart)
	io.Copy(hash, log)
	fmt.Printf("%d %s %x\n", len(keys), keys[0], hash.Sum(nil))
}
