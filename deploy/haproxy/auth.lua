-- Asks the gateway about a request: its refusals go to the client as they are.
local FIELDS = { "authorization", "origin", "access-control-request-method", "traceparent", "tracestate" }
local PASSED_ON = {
    "content-type", "www-authenticate", "retry-after", "cache-control", "x-request-id",
    "vary", "access-control-allow-origin", "access-control-expose-headers",
}

local function request_for(txn, url)
    local given = txn.http:req_get_headers()
    local fields = {
        ["x-forwarded-method"] = { txn.f:method() },
        ["x-forwarded-uri"] = { txn.f:pathq() },
        ["x-forwarded-for"] = { txn.f:src() },
    }
    for _, name in ipairs(FIELDS) do
        fields[name] = given[name] -- every line of it: two Authorization fields are for the gateway to refuse
    end
    return { url = url, headers = fields, timeout = 5000 }
end

local function refuse(txn, answer)
    local reply = txn:reply()
    reply:set_status(answer.status >= 400 and answer.status or 503)
    for _, name in ipairs(PASSED_ON) do
        for _, value in pairs(answer.headers and answer.headers[name] or {}) do
            reply:add_header(name, value)
        end
    end
    reply:set_body(answer.body or "")
    txn:done(reply)
end

core.register_action("ask-gateway", { "http-req" }, function(txn, url)
    local answer = core.httpclient():get(request_for(txn, url))
    if answer.status ~= 200 then
        return refuse(txn, answer)
    end
    txn:set_var("txn.claims", answer.headers["x-token-claims"][0])
    txn:set_var("txn.subject", answer.headers["x-token-subject"][0])
    txn:set_var("txn.admitted", true)
end, 1)
