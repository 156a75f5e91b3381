{ fpSelect of Free Pascal. }
program SelectLoop;
uses BaseUnix, SysUtils;
var
  Device: cint;
  Readable: TFDSet;
  Got: TSSize;
  Text: array[0..4095] of char;
procedure Say(const Said: string);
begin
  WriteLn(Said);
  Flush(Output);
end;
begin
  Device := fpOpen(ParamStr(1), O_RDONLY or O_NONBLOCK);
  Say('ready');
  while true do
  begin
    fpFD_ZERO(Readable);
    fpFD_SET(Device, Readable);
    if fpSelect(Device + 1, @Readable, nil, nil, nil) <= 0 then continue;
    if ParamStr(2) = 'poll' then
    begin
      Say('woken');
      continue;
    end;
    Got := fpRead(Device, Text, SizeOf(Text));
    if Got > 0 then Say('told ' + Copy(Text, 1, Got - 1))
    else if (Got < 0) and (fpGetErrno = ESysEAGAIN) then Say('empty')
    else
    begin
      Say('end errno ' + IntToStr(fpGetErrno));
      Halt(0);
    end;
  end;
end.
