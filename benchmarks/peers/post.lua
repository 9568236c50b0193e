-- POST messages, each with a body of its own. Prints the answers by status as one line of JSON.
-- wrk calls `response` for each answer, `done` once at the end.
local prefix, count, threads = "", 0, {}
statuses = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  prefix = arguments[1]
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  count = count + 1
  return wrk.format(nil, nil, nil, '{"destination":"+15550001","body":"' .. prefix .. count .. '"}')
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
end

function done()
  local parts = {}
  for _, thread in ipairs(threads) do
    for status, number in pairs(thread:get("statuses")) do
      table.insert(parts, string.format('"%s":%d', status, number))
    end
  end
  print('statuses {' .. table.concat(parts, ",") .. "}")
end
