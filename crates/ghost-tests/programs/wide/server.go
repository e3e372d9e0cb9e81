// An HTTP server with a counter behind a mutex.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
)

func main() {
	var m sync.Mutex
	sum := 0
	l, err := net.Listen("tcp", "127.0.0.1:8124")
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m.Lock()
		for _, x := range b {
			sum = (sum*31 + int(x)) % 1000000007
		}
		fmt.Fprintln(w, sum)
		m.Unlock()
	})
	http.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) { os.Exit(0) })
	http.Serve(l, nil)
}
