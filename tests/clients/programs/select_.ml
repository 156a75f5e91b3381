(* Unix.select. *)
let path = Sys.argv.(1) and mode = Sys.argv.(2)
let text = Bytes.create 4096

let woken fd =
  if mode = "poll" then print_endline "woken"
  else
    match Unix.read fd text 0 4096 with
    | 0 -> print_endline "end end of file"; exit 0
    | got -> print_string ("told " ^ Bytes.sub_string text 0 got); flush stdout
    | exception Unix.Unix_error ((EAGAIN | EWOULDBLOCK), _, _) -> print_endline "empty"
    | exception Unix.Unix_error (error, _, _) -> print_endline ("end " ^ Unix.error_message error); exit 0

let () =
  let fd = Unix.openfile path [ O_RDONLY; O_NONBLOCK ] 0 in
  print_endline "ready";
  while true do
    match Unix.select [ fd ] [] [] (-1.) with [], _, _ -> () | _ -> woken fd
  done
