/** What the server sends, as its `store.py` and `rooms.py` write it. */

export interface Position {
  offset: number;
  epoch: string;
}

export interface Message {
  id: number;
  room: string;
  key: string;
  user: string;
  name: string;
  text: string;
  image: string | null;
  sent_ms: number;
  version: number;
  edited: boolean;
  deleted: boolean;
}

export interface MessagePage {
  messages: Message[];
  more: boolean;
}

export interface Snapshot extends MessagePage {
  room: string;
  position: Position;
}

export interface RoomSummary {
  name: string;
  last: number;
  unread: number;
}

export interface Me {
  id: string;
  name: string;
}

/** Somebody who is in the room. */
export interface Member {
  id: string;
  name: string;
}

/** A message that the server has not confirmed. */
export interface Unsent {
  key: string;
  room: string;
  text: string;
  file: Blob | null;
  fileUrl: string | null;
  image: string | null;
  sent_ms: number;
  state: 'pending' | 'failed';
  /** Why it failed; whether it goes out by itself when the connection is back. */
  error: string;
  automatic: boolean;
}
