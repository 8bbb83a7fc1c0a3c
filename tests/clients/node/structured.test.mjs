// `openai` for Node: answers that keep to a schema, and calls of functions.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { client, model } from './setting.mjs';

const Person = z.object({
  name: z.string(), age: z.int(), role: z.enum(['engineer', 'poet']),
});
const ada = { name: 'Ada', age: 36, role: 'engineer' };
const who = {
  model,
  messages: [{ role: 'user', content: 'Who is it?' }],
  temperature: 0,
  response_format: zodResponseFormat(Person, 'Person'),
};

const GetWeather = z.object({ city: z.string() });
const description = 'The weather of a city.';
const tool = zodFunction({ name: 'GetWeather', description, parameters: GetWeather });
const asked = {
  model,
  messages: [{ role: 'user', content: 'What is the weather in Paris?' }],
  temperature: 0,
  tools: [tool],
};

test('parse gives what the schema says', async () => {
  const answer = await client.chat.completions.parse(who);
  assert.deepEqual(answer.choices[0].message.parsed, ada);
});

test('a stream is parsed as it comes', async () => {
  const stream = client.chat.completions.stream(who);
  const seen = [];
  stream.on('content.delta', ({ parsed }) => seen.push(parsed));
  const final = await stream.finalChatCompletion();
  assert.deepEqual(seen.at(-1), ada);
  assert.deepEqual(final.choices[0].message.parsed, ada);
});

test('an answer that was cut is not parsed', async () => {
  await assert.rejects(
    client.chat.completions.parse({ ...who, max_completion_tokens: 2 }),
    OpenAI.LengthFinishReasonError,
  );
});

test('a call of a function, parsed', async () => {
  for (const tool_choice of ['auto', 'required']) {
    const answer = await client.chat.completions.parse({ ...asked, tool_choice });
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, 'GetWeather');
    assert.deepEqual(call.function.parsed_arguments, { city: 'Paris' });
    assert.equal(answer.choices[0].finish_reason, 'tool_calls');
  }
});

test('a call of a function, streamed', async () => {
  const stream = client.chat.completions.stream(asked);
  let seen = '';
  stream.on('tool_calls.function.arguments.delta', (event) => { seen += event.arguments_delta; });
  const final = await stream.finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls;
  assert.equal(seen, call.function.arguments);
  assert.deepEqual(call.function.parsed_arguments, { city: 'Paris' });
});

test('the SDK runs the functions and gives the last answer', async () => {
  for (const stream of [false, true]) {
    const cities = [];
    const weather = {
      type: 'function',
      function: {
        ...tool.function,
        parse: JSON.parse,
        function: ({ city }) => { cities.push(city); return 'sunny'; },
      },
    };
    const runner = client.chat.completions.runTools({ ...asked, stream, tools: [weather] });
    assert.equal(await runner.finalContent(), 'It is sunny in Paris.');
    assert.deepEqual(cities, ['Paris']);
  }
});
