#!/usr/bin/env escript
%% A port on descriptor 3, which the shell opened: the emulator's own epoll.
main(_) ->
    process_flag(trap_exit, true),
    Port = open_port({fd, 3, 3}, [in, eof, binary, {line, 4096}]),
    io:format("ready~n"),
    watch(Port).

watch(Port) ->
    receive
        {Port, {data, {eol, Line}}} -> io:format("told ~s~n", [Line]), watch(Port);
        {Port, eof} -> io:format("end eof of the port~n");
        Other -> io:format("end ~p~n", [Other])
    end.
