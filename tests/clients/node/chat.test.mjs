// `openai` for Node: chat and completions, whole and streamed; its errors, its ways to give up.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import OpenAI from 'openai';
import { all, client, job, limitedKey, messages, model, secret } from './setting.mjs';

const asked = { model, messages, temperature: 0 };
const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? '').join('');

test('an answer', async () => {
  const answer = await client.chat.completions.create({
    ...asked, n: 2, logprobs: true, top_logprobs: 2, user: 'u-1', store: false,
  });
  assert.equal(answer.model, model);
  for (const choice of answer.choices) {
    assert.equal(choice.message.content, secret);
    assert.equal(choice.finish_reason, 'stop');
    assert.equal(choice.logprobs.content.map((token) => token.token).join(''), secret);
  }
  assert.ok(answer.usage.total_tokens > answer.usage.prompt_tokens);
});

test('stop and limits', async () => {
  const stopped = await client.chat.completions.create({ ...asked, stop: ['lade'] });
  assert.equal(stopped.choices[0].message.content, 'marma');
  const cut = await client.chat.completions.create({ ...asked, max_completion_tokens: 1 });
  assert.equal(cut.choices[0].finish_reason, 'length');
});

test('a stream with usage', async () => {
  const stream_options = { include_usage: true };
  const chunks = await all(
    await client.chat.completions.create({ ...asked, stream: true, stream_options }),
  );
  assert.equal(text(chunks), secret);
  assert.ok(chunks.at(-1).usage.completion_tokens > 0);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
});

test('the stream helper', async () => {
  const stream = client.chat.completions.stream(asked);
  const said = [];
  stream.on('content', (delta) => said.push(delta));
  const final = await stream.finalChatCompletion();
  assert.equal(said.join(''), secret);
  assert.equal(final.choices[0].message.content, secret);
});

test('many at once', async () => {
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => client.chat.completions.create(asked)),
  );
  assert.deepEqual(answers.map((a) => a.choices[0].message.content), Array(8).fill(secret));
});

test('completions', async () => {
  const wanted = { model, prompt: 'Say', max_tokens: 4, seed: 1, logprobs: 2 };
  const whole = await client.completions.create(wanted);
  assert.equal(whole.choices[0].logprobs.tokens.join(''), whole.choices[0].text);
  const chunks = await all(await client.completions.create({ ...wanted, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), whole.choices[0].text);
});

test('headers', async () => {
  const { data, response, request_id } = await client.chat.completions.create(asked).withResponse();
  assert.equal(data._request_id, request_id);
  assert.ok(response.headers.get('x-lorehouse-revision').startsWith(model.split(':').at(-1)));
});

test('errors have their classes', async () => {
  const ask = (fields) => client.chat.completions.create({ ...asked, ...fields });
  await assert.rejects(ask({ temperature: 3 }), (fault) =>
    fault instanceof OpenAI.BadRequestError && fault.param === 'temperature');
  await assert.rejects(ask({ messages: [{ role: 'user', content: 'word '.repeat(4000) }] }), {
    status: 400, code: 'context_length_exceeded', param: 'messages',
  });
  await assert.rejects(ask({ model: 'gpt-4o' }), (fault) =>
    fault instanceof OpenAI.NotFoundError && fault.code === 'model_not_found' && fault.requestID !== null);
  const stranger = new OpenAI({ apiKey: 'lh-wrong' });
  await assert.rejects(all(stranger.models.list()), (fault) =>
    fault instanceof OpenAI.AuthenticationError && fault.code === 'invalid_api_key');
  await assert.rejects(client.responses.create({ model, input: 'Hello' }), (fault) =>
    fault instanceof OpenAI.NotFoundError && fault.code === 'unknown_url');
});

test('a rate limit says when to come again', async () => {
  const limited = new OpenAI({ apiKey: limitedKey, maxRetries: 0 });
  const often = async () => {
    for (let i = 0; i < 3; i += 1) await limited.models.list();
  };
  await assert.rejects(often(), (fault) =>
    fault instanceof OpenAI.RateLimitError && Number(fault.headers.get('retry-after')) >= 1);
});

test('timeouts and aborts', async () => {
  await assert.rejects(
    client.chat.completions.create(asked, { timeout: 1, maxRetries: 0 }),
    OpenAI.APIConnectionTimeoutError,
  );
  const abort = new AbortController();
  const begun = client.chat.completions.create(asked, { signal: abort.signal });
  abort.abort();
  await assert.rejects(begun, OpenAI.APIUserAbortError);
  const stream = await client.chat.completions.create({ ...asked, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, 'chat.completion.chunk');
    break; // which aborts it
  }
  assert.ok(stream.controller.signal.aborted);
});

test('the page is true', () => {
  const page = readFileSync(new URL('../../../docs/clients.md', import.meta.url), 'utf8');
  const [, snippet] = page.match(/^```js\n(.*?)^```$/ms);
  const told = execFileSync(process.execPath, ['--input-type=module', '-e', snippet], {
    cwd: import.meta.dirname, encoding: 'utf8',
  });
  assert.match(told, new RegExp(job));
});
