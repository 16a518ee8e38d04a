-- What the scripts share: numbered threads, their random numbers, and the figures as one line of JSON at the end.
-- From the environment: KEY (the API key), RUN (12 hexadecimal digits that no other run has), SEED.
key, run_name = os.getenv("KEY") or "none", os.getenv("RUN") or "000000000000"
local threads = 0

function setup(thread)
    threads = threads + 1
    thread:set("thread_number", threads)
end

function init()
    math.randomseed(tonumber(os.getenv("SEED") or "1") * 100 + (thread_number or 0))
    if prepare then prepare() end
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"requests":%d,"microseconds":%d,"refused":%d,"broken":%d,"p50_us":%d,"p99_us":%d,"max_us":%d}',
        summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency.max))
end

local count = 0
local get_headers = { ["Authorization"] = "Bearer " .. key }

function get(path)
    return wrk.format("GET", path, get_headers)
end

-- Each POST has an idempotency key of its own, a UUID: random at the beginning, unlike any other in the rest.
function post(path, body)
    count = count + 1
    return wrk.format("POST", path, {
        ["Authorization"] = "Bearer " .. key,
        ["Content-Type"] = "application/json",
        ["Idempotency-Key"] = string.format("%08x-%04x-4%03x-a%03x-%s",
            math.random(0, 0xffffffff), count % 65536, math.floor(count / 65536), thread_number or 0, run_name),
    }, body)
end

-- Two different accounts of those from FIRST to LAST.
local first, last = tonumber(os.getenv("FIRST")), tonumber(os.getenv("LAST"))

function random_account()
    return math.random(first, last)
end

function random_accounts()
    local one = math.random(first, last)
    return one, first + (one - first + math.random(1, last - first)) % (last - first + 1)
end

function transfer_body(debit, credit)
    return string.format('{"debit_account_id":%d,"credit_account_id":%d,"amount_minor":%d}',
        debit, credit, math.random(1, 10000))
end
