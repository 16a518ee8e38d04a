-- Eight balance enquiries for every two transfers.
dofile("common.lua")

function request()
    if math.random(1, 10) <= 8 then
        return get("/v1/accounts/" .. random_account() .. "/balance")
    end
    return post("/v1/transfers", transfer_body(random_accounts()))
end
