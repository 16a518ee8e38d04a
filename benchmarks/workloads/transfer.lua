-- wrk: transfers between random accounts, each with a key of its own. KEY and ACCOUNTS come from the environment.
local key, accounts = os.getenv("KEY"), tonumber(os.getenv("ACCOUNTS"))
local hot = tonumber(os.getenv("HOT") or "0")
local run, thread_number, count = os.time(), 0, 0
local threads = 0

function setup(thread)
    threads = threads + 1
    thread:set("thread_number", threads)
end

function init()
    math.randomseed(run + thread_number)
end

function request()
    count = count + 1
    local debit = hot > 0 and hot or math.random(2, accounts + 1)
    local body = string.format(
        '{"debit_account_id":%d,"credit_account_id":%d,"amount_minor":1}', debit, math.random(2, accounts + 1))
    return wrk.format("POST", "/v1/transfers", {
        ["Authorization"] = "Bearer " .. key,
        ["Content-Type"] = "application/json",
        ["Idempotency-Key"] = string.format("%d-%d-%d", run, thread_number, count),
    }, body)
end
