// Which rows PowerSync's own evaluator sends to whom: stdin {yaml, tables: {name: [row]},
// users: [id]}, stdout {errors, tables: [name], sent: {user: ["table id"]}}.
import { text } from 'node:stream/consumers'

// Its compiler expects a newer Node than some machines have.
Object.groupBy ??= (items, key) => grouped(items, key, {}, (to, k) => (to[k] ??= []))
Map.groupBy ??= (items, key) =>
  grouped(items, key, new Map(), (to, k) => to.get(k) ?? to.set(k, []).get(k))

function grouped(items, key, to, list) {
  for (const item of items) list(to, key(item)).push(item)
  return to
}

const rules = await import('@powersync/service-sync-rules')
const { yaml, tables, users } = JSON.parse(await text(process.stdin))
const { config, errors } = rules.SqlSyncRules.fromYaml(yaml, {
  defaultSchema: 'public',
  throwOnError: false
})
const ready = config.hydrate({
  hydrationState: rules.DEFAULT_HYDRATION_STATE,
  sqlite: rules.javaScriptExpressionEngine(config.compatibility)
})

const data = []
const parameters = []
for (const [name, rows] of Object.entries(tables)) {
  const sourceTable = { connectionTag: 'default', schema: 'public', name }
  for (const record of rows) {
    data.push(...ready.evaluateRow({ sourceTable, record }))
    parameters.push(...ready.evaluateParameterRow(sourceTable, record))
  }
}

const lookedUp = (lookup) => ({
  lookup,
  rows: parameters
    .filter((p) => p.lookup.serializedRepresentation === lookup.serializedRepresentation)
    .flatMap((p) => p.bucketParameters)
})
const sent = {}
for (const user of users) {
  const payload = new rules.BaseJwtPayload({ sub: user })
  const { querier, errors: failed } = ready.getBucketParameterQuerier({
    globalParameters: new rules.RequestParameters(payload, {}),
    hasDefaultStreams: true,
    streams: {}
  })
  errors.push(...failed)
  const dynamic = querier.hasDynamicBuckets
    ? await querier.queryDynamicBucketDescriptions({
        getParameterSets: async (lookups) => lookups.map(lookedUp)
      })
    : []
  const buckets = new Set([...querier.staticBuckets, ...dynamic].map((b) => b.bucket))
  const rows = data.filter((row) => buckets.has(row.bucket))
  sent[user] = [...new Set(rows.map((row) => JSON.stringify([row.table, row.data])))]
}
process.stdout.write(
  JSON.stringify({
    errors: errors.map((error) => error.message),
    tables: config.getSourceTables().map((table) => table.name),
    sent
  })
)
