-- POST /v1/transfers. MODE: uniform; hot, from the account HOT to any other; two, between FIRST and the next one.
dofile("common.lua")
local mode, hot, first = os.getenv("MODE") or "uniform", tonumber(os.getenv("HOT")), tonumber(os.getenv("FIRST"))

function request()
    local debit, credit = random_accounts()
    if mode == "hot" then
        debit = hot
    elseif mode == "two" then
        local direction = math.random(0, 1)
        debit, credit = first + direction, first + 1 - direction
    end
    return post("/v1/transfers", transfer_body(debit, credit))
end
