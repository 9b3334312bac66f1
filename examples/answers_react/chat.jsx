// A chat with the Vercel AI SDK, whose answers survive a reload of the page.

import { useChat } from '@ai-sdk/react';
import { useState } from 'react';
import { createRoot } from 'react-dom/client';

function Chat({ id, stored }) {
  const [question, setQuestion] = useState('');
  const { messages, sendMessage, status, error } = useChat({
    id,
    messages: stored,
    // The newest answer is still written, or the stored messages would have it.
    resume: stored.at(-1)?.role === 'user',
  });

  const ask = (event) => {
    event.preventDefault();
    sendMessage({ text: question });
    setQuestion('');
  };
  // The answer ends for all its readers.
  const stop = () => fetch(`/api/chat/${id}/stream`, { method: 'DELETE' });

  return (
    <>
      {messages.map((message) => (
        <p key={message.id} className={message.role}>
          {message.parts.map((part) => part.text ?? '').join('')}
        </p>
      ))}
      <form onSubmit={ask}>
        <label>
          Question{' '}
          <input
            value={question}
            required
            onChange={(event) => setQuestion(event.target.value)}
          />
        </label>
        <button>Ask</button>
        <button type="button" onClick={stop}>
          Stop
        </button>
      </form>
      <p role="status">{error?.message ?? status}</p>
    </>
  );
}

// The address of the page names the chat, so that a reload opens it again.
// `crypto.randomUUID` exists only on pages with HTTPS or on localhost.
location.hash ||= crypto.getRandomValues(new Uint32Array(4)).join('-');
const id = location.hash.slice(1);
const root = createRoot(document.getElementById('root'));
try {
  const response = await fetch(`/api/chat/${id}`);
  if (!response.ok) throw new Error(`status ${response.status}`);
  root.render(<Chat id={id} stored={await response.json()} />);
} catch (error) {
  root.render(<p role="status">The chat cannot be loaded: {error.message}</p>);
}
