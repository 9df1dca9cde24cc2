-- The one write of a partition: state, offset, metrics and alerts, or nothing.
-- KEYS  1 state hash, 2 alert stream, 3 tail of the stream, 4 metrics hash, 5.. a hash of series for each model that has some
-- ARGV  owner, expected offset, next offset, stream length, channel,
--       number of fields, (field, state)*, number of deleted fields, field*,
--       number of models, (model, figures)*, number of rows of series, (key's number from 5 on, field, row or "")*,
--       number of alerts, (model, json without its "{")*
local held = redis.call('HMGET', KEYS[1], 'owner', 'offset')
local owner, offset = held[1] or '', held[2] or ''
if owner ~= ARGV[1] then return {'fenced', owner} end
if offset ~= ARGV[2] then return {'offset', offset} end

local at = 6
local function each(width, act)
  local count = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, count do
    act(ARGV[at], ARGV[at + 1], ARGV[at + 2])
    at = at + width
  end
end

-- What may fail comes first, when nothing is written yet; then the state with its offset.
local fields, deleted, figures, rows, alerts = {}, {}, {}, {}, {}
each(2, function(field, state) fields[#fields + 1] = {field, state} end)
each(1, function(field) deleted[#deleted + 1] = field end)
each(2, function(model, figure) figures[#figures + 1] = {model, figure} end)
each(3, function(key, field, row) rows[#rows + 1] = {KEYS[tonumber(key)], field, row} end)
each(2, function(model, rest) alerts[#alerts + 1] = {model, rest} end)

local texts = {}
for _, alert in ipairs(alerts) do
  local previous = redis.call('GET', KEYS[3]) or '0-0'
  local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*',
    'alert', '{' .. alert[2], 'previous', previous)
  redis.call('SET', KEYS[3], id)
  texts[#texts + 1] = '{"stream_id":"' .. id .. '","previous_id":"' .. previous .. '",' .. alert[2]
end
for _, pair in ipairs(fields) do redis.call('HSET', KEYS[1], pair[1], pair[2]) end
for _, field in ipairs(deleted) do redis.call('HDEL', KEYS[1], field) end
redis.call('HSET', KEYS[1], 'offset', ARGV[3])
-- Figures and the channel are for lookers-on: where they are refused, the commit stands.
for _, pair in ipairs(figures) do redis.pcall('HSET', KEYS[4], pair[1], pair[2]) end
for _, row in ipairs(rows) do
  if row[3] == '' then redis.pcall('HDEL', row[1], row[2])
  else redis.pcall('HSET', row[1], row[2], row[3]) end
end
for k, text in ipairs(texts) do
  redis.pcall('PUBLISH', ARGV[5], text)
  redis.pcall('PUBLISH', ARGV[5] .. ':' .. alerts[k][1], text)
end
return {'ok', ARGV[3]}
