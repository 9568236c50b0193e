-- POST batches of messages to /messages/batch. The arguments are a prefix of the bodies and the size of a batch.
local prefix, size, count = "", 0, 0

function init(arguments)
  prefix, size = arguments[1], tonumber(arguments[2])
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  local items = {}
  for item = 1, size do
    count = count + 1
    items[item] = '{"destination":"+15550001","body":"' .. prefix .. count .. '"}'
  end
  return wrk.format(nil, nil, nil, '{"messages":[' .. table.concat(items, ",") .. "]}")
end
