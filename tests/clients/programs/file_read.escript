#!/usr/bin/env escript
%% file:read_line in a process: a scheduler thread for I/O, blocked in read().
main([Path | _]) ->
    {ok, Device} = file:open(Path, [read, raw, binary]),
    io:format("ready~n"),
    watch(Device).

watch(Device) ->
    case file:read(Device, 4096) of
        {ok, Text} -> io:format("told ~s", [Text]), watch(Device);
        eof -> io:format("end end of file~n");
        {error, Reason} -> io:format("end ~p~n", [Reason])
    end.
