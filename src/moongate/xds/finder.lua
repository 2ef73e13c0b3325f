-- For requests of which Envoy has found no route by their Host as it was sent. Envoy chooses the part of the
-- table by :authority, so another name stands there while it looks again. Each of the two filters can make
-- Envoy look once, by reading metadata. The second one runs if the first left HEADER behind.
local HEADER = "x-moongate-host"
local OTHERS = "<others>"

local function look(handle, headers, name)
  headers:replace(":authority", name)
  handle:clearRouteCache()
  for filter in pairs(handle:metadata()) do
    handle:streamInfo():dynamicMetadata():set("moongate.finder", filter, true)
  end
end

local function among_others(handle, headers, sent)
  headers:replace(HEADER, sent)
  look(handle, headers, OTHERS)
  headers:replace(":authority", sent)
  headers:remove(HEADER)
end

local function first(handle)
  local headers = handle:headers()
  local sent = headers:get(":authority")
  local host = string.lower(sent)
  if host ~= sent then
    look(handle, headers, host)
    headers:replace(":authority", sent)
  end
  if handle:virtualHost():metadata():get("own") then
    headers:remove(HEADER) -- its hostname has a part of its own, where no route matches the request
  elseif host ~= sent then
    headers:replace(HEADER, sent)
  else
    among_others(handle, headers, sent)
  end
end

local function second(handle)
  local headers = handle:headers()
  among_others(handle, headers, headers:get(HEADER))
end

