// SPDX-License-Identifier: Apache-2.0
// Drives a server by xen-api, the library of Xen Orchestra: connects, watches, snapshots, reverts, destroys, and moves a
// disk out and in.  Says a line of JSON for each step; test_clients.py reads them.
//
//     node drive.mjs URL USER PASSWORD VM-UUID VDI-UUID json-rpc|xml-rpc
import { createClient } from 'xen-api'

const [url, user, password, vmUuid, vdiUuid, transport] = process.argv.slice(2)
const say = (step, value) => console.log(JSON.stringify({ step, value }))
const until = async (what, seconds = 30) => {
  for (const end = Date.now() + seconds * 1e3; Date.now() < end; ) {
    const found = what()
    if (found) return found
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  throw new Error(`it did not come to pass: ${what}`)
}

const xapi = createClient({ url, auth: { user, password }, allowUnauthorized: true, debounce: 20, transport })
await xapi.connect()
await xapi.objectsFetched
const types = {}
for (const object of Object.values(xapi.objects.all)) types[object.$type] = (types[object.$type] ?? 0) + 1
say('objects', types)

const vm = xapi.getObject(vmUuid)
say('vm', { name: vm.name_label, power_state: vm.power_state, VBDs: vm.$VBDs.length, pool: vm.$pool.$type })

// a change of our own comes back as an event
await vm.set_name_description('seen by an event')
await until(() => xapi.getObject(vmUuid).name_description === 'seen by an event')
await vm.update_other_config('xo:test', 'a & b')
const now = await xapi.barrier(vm.$ref)
say('barrier', now.other_config['xo:test'])

const snapshotRef = await xapi.callAsync('VM.snapshot', vm.$ref, 'by xen-api <&>')
const snapshot = await until(() => xapi.getObjectByRef(snapshotRef, undefined))
await xapi.call('VM.set_is_a_template', snapshotRef, false)
say('snapshot', { name: snapshot.name_label, of: snapshot.$snapshot_of.uuid, disks: snapshot.$VBDs.length })

const error = await xapi.callAsync('VM.start', 'OpaqueRef:none', false, false).catch(e => e)
say('error', [error.code, ...(error.params ?? [])])

await vm.set_name_description('to be taken back')
await xapi.callAsync('VM.revert', snapshotRef)
await until(() => xapi.getObject(vmUuid).name_description === 'seen by an event')
say('reverted', xapi.getObject(vmUuid).power_state)

// a disk out, and in again, each behind a task that the library watches
const vdi = xapi.getObject(vdiUuid)
const out = await xapi.getResource('/export_raw_vdi/', { query: { vdi: vdi.$ref, format: 'raw' }, task: true })
const bytes = Buffer.from(await out.body.arrayBuffer())
await out.task
say('exported', bytes.length)
bytes.fill(0x58, 0, 512)
await xapi.putResource(bytes, '/import_raw_vdi/', { query: { vdi: vdi.$ref, format: 'raw' }, task: true })
const again = await xapi.getResource('/export_raw_vdi/', { query: { vdi: vdi.$ref, format: 'raw' } })
say('imported', Buffer.from(await again.body.arrayBuffer()).subarray(0, 512).every(b => b === 0x58))
const refused = await xapi
  .putResource(Buffer.alloc(bytes.length + 1024), '/import_raw_vdi/', { query: { vdi: vdi.$ref, format: 'raw' }, task: true })
  .catch(e => e)
say('refused', refused.code)

const disks = snapshot.$VBDs.map(vbd => vbd.VDI)
await xapi.call('VM.destroy', snapshotRef)
for (const ref of disks) await xapi.call('VDI.destroy', ref)
await until(() => xapi.getObjectByRef(snapshotRef, undefined) === undefined)
say('destroyed', disks.length)
await xapi.disconnect()
process.exit(0)
