-- POST /v1/transfers/batch with ITEMS transfers. The bodies are made beforehand: the service derives a key for each
-- item from that of the request, so none is ever a replay.
dofile("common.lua")
local items, bodies = tonumber(os.getenv("ITEMS")), {}

function prepare()
    for number = 1, 20 do
        local transfers = {}
        for item = 1, items do
            transfers[item] = transfer_body(random_accounts())
        end
        bodies[number] = '{"transfers":[' .. table.concat(transfers, ",") .. "]}"
    end
end

function request()
    return post("/v1/transfers/batch", bodies[math.random(1, #bodies)])
end
