-- GET the statuses of the messages whose ids are the arguments, in turn.
local paths, count = {}, 0

function init(arguments)
  for _, id in ipairs(arguments) do
    table.insert(paths, "/message/" .. id .. "/status")
  end
end

function request()
  count = count % #paths + 1
  return wrk.format("GET", paths[count])
end
