-- For requests of which Envoy has found no route by their Host as it was sent. Envoy chooses the part of the
-- table by :authority, so another name stands there while it looks again. Each of the two filters can make
-- Envoy look once, by reading metadata. The second one runs if the first left HEADER behind.
-- Most of what this costs are the calls to Envoy, so there are no more of them than needed.
local HEADER = "x-moongate-host"
local OTHERS = "<others>"

local function look(handle, headers, name, sent)
  headers:replace(":authority", name)
  handle:clearRouteCache()
  local filters = handle:metadata():get("filters")
  headers:replace(":authority", sent)
  if filters then
    local metadata = handle:streamInfo():dynamicMetadata()
    for filter in pairs(filters) do
      metadata:set("moongate.finder", filter, true)
    end
  end
end

local function among_others(handle, headers, sent)
  headers:replace(HEADER, sent)
  look(handle, headers, OTHERS, sent)
  headers:remove(HEADER)
end

-- Whether the hostname has a part of its own, where no route matches the request.
local function is_own(handle)
  return handle:virtualHost():metadata():get("own")
end

local function first(handle)
  local headers = handle:headers()
  local sent = headers:get(":authority")
  if not string.find(sent, "%u") then
    if is_own(handle) then
      headers:remove(HEADER)
    else
      among_others(handle, headers, sent)
    end
    return
  end
  look(handle, headers, string.lower(sent), sent)
  if is_own(handle) then
    headers:remove(HEADER)
  else
    headers:replace(HEADER, sent)
  end
end

local function second(handle)
  local headers = handle:headers()
  among_others(handle, headers, headers:get(HEADER))
end

