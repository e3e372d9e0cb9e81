(* Maps, closures, the collector, a file under way. *)
module M = Map.Make (String)
let () =
  let log = open_out "log" in
  let x = ref 1 and m = ref M.empty in
  for round = 1 to 150 do
    for _ = 1 to 3000 do
      x := (!x * 1103515245 + 12345) land 0x7fffffff;
      let k = String.sub (Digest.to_hex (Digest.string (string_of_int !x))) 0 4 in
      m := M.update k (function None -> Some 1 | Some n -> Some (n + 1)) !m
    done;
    let sum = M.fold (fun k v a -> (a * 31 + Hashtbl.hash k + v) mod 1000000007) !m 0 in
    Printf.printf "%d %d %d\n%!" round (M.cardinal !m) sum;
    Printf.fprintf log "%d %d\n" round sum
  done;
  close_out log
