// Asks until an answer had to be tried for more than once: a client that is patient, and no more.
import OpenAI from 'openai';

let tried = 0;
const counting = (url, init) => {
  tried = Number(init.headers.get('x-stainless-retry-count'));
  return fetch(url, init);
};
const client = new OpenAI({ maxRetries: 60, fetch: counting });
while (tried === 0) {
  const answer = await client.chat.completions.create({
    model: 'support', messages: [{ role: 'user', content: 'Hello' }], max_tokens: 2,
  });
  if (answer.choices.length !== 1) throw new Error('no answer');
  console.log('answered');
}
