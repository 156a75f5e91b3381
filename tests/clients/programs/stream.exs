# File.stream!
[path | _] = System.argv()
IO.puts("ready")
try do
  path |> File.stream!() |> Enum.each(fn line -> IO.write("told " <> line) end)
  IO.puts("end end of file")
rescue
  error -> IO.puts("end " <> inspect(error))
end
