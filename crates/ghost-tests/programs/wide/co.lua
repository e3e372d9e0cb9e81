-- Coroutines, tables, string buffers, a pipe from a child.
io.stdout:setvbuf("no")
local function numbers() return coroutine.wrap(function() local x = 1 while true do x = (x * 1103515245 + 12345) % 2147483648 coroutine.yield(x >> 8) end end) end
local next_number, seen = numbers(), {}
local child = assert(io.popen("seq 1 200000 | sort -r", "r"))
for round = 1, 600 do
  for i = 1, 2000 do local k = next_number() % 4096 seen[k] = (seen[k] or 0) + i end
  local n, sum = 0, 0
  for k, v in pairs(seen) do n = n + 1 sum = (sum + k * v) % 1000000007 end
  local lines = 0
  for i = 1, 300 do local l = child:read("l") sum = (sum + #l * tonumber(l)) % 1000000007 end
  io.write(round, " ", n, " ", sum, "\n")
end
print(child:close())
