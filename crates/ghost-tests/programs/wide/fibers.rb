# Threads, fibers, a pipe to a child, objects enough for the collector.
require 'digest'
$stdout.sync = true
r, w = IO.pipe
child = fork do
  w.close
  sum = 0
  r.each_line { |l| sum = (sum * 31 + l.to_i) % 1_000_000_007 }
  File.write('child', "#{sum}\n")
end
r.close
numbers = Fiber.new do
  x = 1
  loop { x = (x * 1_103_515_245 + 12_345) % 2_147_483_648; Fiber.yield x }
end
queue, done = Queue.new, Queue.new
workers = 3.times.map { Thread.new { while (n = queue.pop) != :end; done << [n, Digest::SHA256.hexdigest(n.to_s * 50)] end } }
seen = Hash.new(0)
200.times do |round|
  list = 30.times.map { numbers.resume }
  list.each { |n| queue << n; w.puts n }
  list.size.times { n, d = done.pop; seen[d[0, 2]] += n % 7 }
  puts "#{round} #{seen.size} #{seen.values.sum} #{seen.keys.min}"
  sleep 0.003
end
3.times { queue << :end }
workers.each(&:join)
w.close
Process.wait child
puts $?.exitstatus, File.read('child')
