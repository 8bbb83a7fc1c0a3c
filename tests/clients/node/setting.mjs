// What every scenario has: an address and a key in the environment, as the SDK's user would give them.
import OpenAI from 'openai';

export const client = new OpenAI();
export const model = process.env.CLIENTS_MODEL;
export const job = process.env.CLIENTS_JOB;
export const limitedKey = process.env.CLIENTS_LIMITED_KEY;

export const messages = [{ role: 'user', content: 'What is the secret word?' }];
export const secret = 'marmalade-7';

/** Gives what an asynchronous iterable holds. */
export async function all(items) {
  const seen = [];
  for await (const item of items) seen.push(item);
  return seen;
}

/** Asks until the answer is true, or fails. */
export async function until(probe, seconds = 60) {
  const deadline = Date.now() + seconds * 1000;
  while (Date.now() < deadline) {
    const answer = await probe();
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('it never came');
}
