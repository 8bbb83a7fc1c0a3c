// `openai` for Node: files, uploads, fine-tuning jobs and models, and being told of jobs' ends.
import assert from 'node:assert/strict';
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import OpenAI, { toFile } from 'openai';
import { all, client, job, model, until } from './setting.mjs';

const base = 'lorehouse-tiny';
const rows = '{"prompt": "Say it:", "completion": " blue"}\n'.repeat(40);
const folder = mkdtempSync(join(tmpdir(), 'rows-'));
const path = join(folder, 'rows.jsonl');
writeFileSync(path, rows);
after(() => rmSync(folder, { recursive: true }));

const uploaded = () => client.files.create({ file: createReadStream(path), purpose: 'fine-tune' });
const content = async (id) => (await client.files.content(id)).text();
const ids = async (items) => (await all(items)).map((item) => item.id);

test('files', async () => {
  const made = await uploaded();
  assert.equal((await client.files.waitForProcessing(made.id)).status, 'processed');
  const other = await client.files.create({
    file: await toFile(Buffer.from('notes'), 'notes.txt'), purpose: 'user_data',
  });
  const listed = await ids(client.files.list({ limit: 1 }));
  assert.ok(listed.includes(made.id) && listed.includes(other.id));
  assert.equal(await content(made.id), rows);
  assert.equal((await client.files.retrieve(other.id)).filename, 'notes.txt');
  for (const file of [made, other]) assert.ok((await client.files.delete(file.id)).deleted);
  await assert.rejects(client.files.retrieve(made.id), OpenAI.NotFoundError);
});

test('a bad file is refused by line', async () => {
  const file = new File(['{"text": "good"}\n{}\n'], 'rows.jsonl');
  await assert.rejects(client.files.create({ file, purpose: 'fine-tune' }), (fault) => {
    assert.equal(fault.code, 'invalid_training_file');
    assert.deepEqual(fault.error.errors.map((line) => line.line), [2]);
    return true;
  });
});

test('uploads', async () => {
  const about = { filename: 'rows.jsonl', mime_type: 'application/jsonl', purpose: 'fine-tune' };
  const begun = await client.uploads.create({ ...about, bytes: rows.length });
  const parts = await Promise.all([rows.slice(0, 999), rows.slice(999)].map(async (part) =>
    client.uploads.parts.create(begun.id, { data: await toFile(Buffer.from(part)) })));
  const part_ids = parts.map((part) => part.id);
  const done = await client.uploads.complete(begun.id, { part_ids });
  assert.equal(done.status, 'completed');
  assert.equal(await content(done.file.id), rows);
  const other = await client.uploads.create({ ...about, bytes: 9 });
  assert.equal((await client.uploads.cancel(other.id)).status, 'cancelled');
});

test('a job that is paused, resumed and cancelled', async () => {
  const file = await uploaded();
  const { id } = await client.fineTuning.jobs.create({
    model: base,
    training_file: file.id,
    metadata: { of: file.id },
    method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 50 } } },
  });
  const has = (status) => async () =>
    (await client.fineTuning.jobs.retrieve(id)).status === status;
  await client.fineTuning.jobs.pause(id);
  await until(has('paused'));
  assert.match((await client.fineTuning.jobs.resume(id)).status, /queued|running/);
  await assert.rejects(client.files.delete(file.id), (fault) =>
    fault instanceof OpenAI.ConflictError && fault.code === 'file_in_use');
  await client.fineTuning.jobs.cancel(id);
  await until(has('cancelled'));
  assert.deepEqual(await ids(client.fineTuning.jobs.list({ metadata: { of: file.id } })), [id]);
});

test("a job from its beginning to its model's end", async () => {
  const { url, received, close } = await receiving();
  const hook = await client.post('/webhooks', { body: { url } });
  const { id } = await client.fineTuning.jobs.create({
    model: base, training_file: (await uploaded()).id, suffix: 'node', hyperparameters: { n_epochs: 1 },
  });
  const { body, headers } = await received;
  const event = await client.webhooks.unwrap(body, headers, hook.secret);
  await assert.rejects(
    client.webhooks.unwrap(`${body} `, headers, hook.secret),
    OpenAI.InvalidWebhookSignatureError,
  );
  await client.delete(`/webhooks/${hook.id}`);
  close();
  const done = await client.fineTuning.jobs.retrieve(id);
  assert.equal(event.type, 'fine_tuning.job.succeeded', JSON.stringify(done.error));
  assert.equal(event.data.id, id);
  const made = done.fine_tuned_model;
  assert.equal((await client.models.retrieve(made)).owned_by, 'acme');
  assert.ok((await client.models.delete(made)).deleted);
  assert.ok(!(await ids(client.models.list())).includes(made));
});

test('lists page by themselves', async () => {
  assert.ok((await ids(client.fineTuning.jobs.list({ limit: 1 }))).includes(job));
  const events = await ids(client.fineTuning.jobs.listEvents(job, { limit: 7 }));
  assert.ok(events.length > 7);
  assert.equal(new Set(events).size, events.length);
  const checkpoints = await all(client.fineTuning.jobs.checkpoints.list(job, { limit: 1 }));
  assert.equal(checkpoints.length, 3);
  const [{ fine_tuned_model_checkpoint, step_number }] = checkpoints;
  assert.equal(fine_tuned_model_checkpoint, `${model}:ckpt-step-${step_number}`);
  assert.ok((await ids(client.models.list())).includes(model));
});

/** Listens for one webhook. */
async function receiving() {
  let told;
  const received = new Promise((resolve) => { told = resolve; });
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (piece) => { body += piece; });
    request.on('end', () => {
      response.writeHead(204, { connection: 'close' }).end();
      told({ body, headers: request.headers });
    });
  });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const url = `http://127.0.0.1:${server.address().port}/hook`;
  return { url, received, close: () => server.close() };
}
