/** The data that the server sends, as defined in its `store.py` and `rooms.py`. */

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

export interface RoomSnapshot extends MessagePage {
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

/** A member who is in the room. */
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
  /** The reason of the failure, as a text for the user. */
  error: string;
  /** Whether it is sent again when the connection is back. */
  automatic: boolean;
}
