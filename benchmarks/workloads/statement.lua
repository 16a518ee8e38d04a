-- GET /v1/accounts/HISTORY/entries: a page of 50. Without CURSORS the newest, else one of those pages.
-- CURSORS: what the service gave out as next_cursor, separated by commas.
dofile("common.lua")
local account, cursors = os.getenv("HISTORY"), {}
for cursor in string.gmatch(os.getenv("CURSORS") or "", "[^,]+") do
    cursors[#cursors + 1] = cursor
end

function request()
    local query = #cursors > 0 and "&cursor=" .. cursors[math.random(1, #cursors)] or ""
    return get("/v1/accounts/" .. account .. "/entries?limit=50" .. query)
end
