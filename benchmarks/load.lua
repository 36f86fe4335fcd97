-- wrk: requests of many users in turn; at the end one line of figures.
-- Arguments: file of tokens, heads ("equal" or "browser"), method, bytes of the body, path, tokens asked with before.
local tokens, last, count = {}, 0, 0
local head, tail, path, method, body, ready

-- What Chromium 140 sends when a page of another path fetches JSON.
local BROWSER = table.concat({
  'sec-ch-ua-platform: "Linux"',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
  'Accept: application/json, text/plain, */*',
  'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
  'sec-ch-ua-mobile: ?0',
  'Sec-Fetch-Site: same-origin',
  'Sec-Fetch-Mode: cors',
  'Sec-Fetch-Dest: empty',
  'Referer: https://app.example/orders/2026',
  'Accept-Encoding: gzip, deflate, br, zstd',
  'Accept-Language: de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7',
}, "\r\n") .. "\r\n"

function init(args)
  math.randomseed(os.time())
  for token in io.lines(args[1]) do tokens[#tokens + 1] = token end
  method, path, last = args[3], args[5], tonumber(args[6] or 0)
  local size = tonumber(args[4])
  body = string.rep("x", size)
  local framing = size > 0 and ("Content-Type: application/octet-stream\r\nContent-Length: " .. size .. "\r\n") or ""
  head = "Host: " .. wrk.headers["Host"] .. "\r\n" .. framing
  if args[2] == "browser" then
    head = head .. BROWSER
  else
    ready = {}
    for number, token in ipairs(tokens) do
      ready[number] = method .. " " .. path .. " HTTP/1.1\r\n" .. head .. "Authorization: Bearer " .. token .. "\r\n\r\n" .. body
    end
  end
end

function request()
  last = last % #tokens + 1
  if ready then return ready[last] end
  count = count + 1
  local id = string.format("%08x%08x", math.random(0, 0x7fffffff), count)
  return method .. " " .. path .. "?page=" .. count .. "&id=" .. id .. " HTTP/1.1\r\n" .. head
    .. "X-Request-Id: " .. id .. "\r\nCookie: session=" .. id .. "; theme=dark; seen=" .. count
    .. "\r\nAuthorization: Bearer " .. tokens[last] .. "\r\n\r\n" .. body
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format("figures %d %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99)))
end
