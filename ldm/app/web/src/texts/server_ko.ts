/** 서버가 하는 말 (Korean). */

import type { ServerCode } from ".";

export const serverKo: Record<ServerCode, string> = {
  queue_full: "대기 중인 편집이 너무 많습니다. 몇 개가 끝나기를 기다리거나 취소하세요.",
  job_ended: "이미 끝났습니다.",
  still_running: "실행 중인 편집이 아직 끝나지 않았습니다. 잠시 뒤에 다시 해 보세요.",
  no_job: "이 편집은 없습니다. 세션과 함께 삭제되었을 수 있습니다.",
  no_node: "기록의 이 사진은 없습니다. 삭제되었을 수 있습니다.",
  no_picture: "사진이 없습니다. 다시 여세요.",
  no_session: "이 세션은 없습니다. 삭제되었을 수 있습니다.",
  no_example: "그런 예제가 없습니다.",
  nothing_to_undo: "되돌릴 것이 없습니다. 세션이 여기서 시작했습니다.",
  nothing_to_redo: "다시 실행할 것이 없습니다. 여기서 한 편집이 없습니다.",
  delete_session_instead: "세션이 여기서 시작했습니다. 시작 화면에서 세션 전체를 삭제하세요.",
  empty_canvas: "캔버스에 아직 아무것도 없습니다.",

  no_styles: "이 모델은 사진의 스타일을 읽지 않습니다. 스타일을 빼세요.",
  mask_on_canvas: "마스크는 사진에만 쓸 수 있습니다. 빼세요.",
  black_mask: "마스크가 모두 검습니다. 바뀌어도 되는 곳을 희게 칠하세요.",
  too_many_variants: "한 번에 {count}장은 너무 많습니다. 최대 {most}장입니다.",
  same_variants: "{method} 방법은 잡음을 뽑지 않아 변형이 모두 같아집니다. {methods} 중에서 고르세요.",
  no_graph_yet: "이 사진에 대해 아는 것이 없습니다. 먼저 객체마다 상자를 그리세요.",
  no_attention: "이 모델의 토큰은 객체 하나하나를 나타내지 않아 객체별 어텐션이 없습니다.",
  no_clips: "이 모델에는 클립을 위한 시간 레이어가 없습니다. 도형 그림용 가중치로 서버를 시작하세요: --ckpt data/flat/adapters.safetensors.",
  diverged: "샘플링이 발산했습니다. CFG 스케일을 낮추세요.",
  out_of_memory: "메모리가 모자랍니다. 서버를 --precision fp16이나 --low-memory로, 또는 더 작은 모델로 시작하세요.",

  unknown_object: "모델이 “{name}” 객체를 모릅니다.",
  unknown_predicate: "모델이 “{name}” 관계를 모릅니다.",
  unknown_attribute: "모델이 “{name}” 속성을 모릅니다.",
  too_many_objects: "객체가 {count}개인데 모델은 최대 {most}개까지 받습니다. 몇 개를 빼세요.",
  no_position: "다음을 모두 만족하는 “{object}”의 자리가 없습니다: {relations}, 그리고 다른 모든 관계. 원하는 곳으로 직접 옮기거나 다른 관계도 바꾸세요.",
  relation_without_place: "“{predicate}” 관계로는 “{object}”의 자리를 알 수 없습니다. 위치를 정하세요.",
  option_choice: "{option}: “{value}”은(는) 고를 수 없습니다. 가능한 값: {choices}.",
  option_range: "{option}: {value}은(는) 범위({bounds})를 벗어납니다.",
  option_type: "{option}: {value}은(는) 알맞은 값이 아닙니다.",

  too_large: "파일이 {limit} MB보다 큽니다. 더 작게 저장하세요.",
  too_many_pixels: "사진이 너무 큽니다. 최대 {pixels} 픽셀, 한 변 {side} 픽셀입니다. 더 작게 저장하세요.",
  not_an_image: "깨졌거나 읽을 수 없는 사진 파일입니다 (가능: {formats}).",
  not_text: "{name}: UTF-8 텍스트가 아닙니다.",
  not_json: "{name}: 올바른 JSON이 아닙니다 ({line}행 {column}열).",
  too_nested: "{name}: 목록이 너무 깊이 겹쳐 있습니다.",
  cut_off: "파일이 오는 중에 끊겼거나 너무 큽니다. 다시 보내세요.",

  disk: "세션을 쓰거나 읽을 수 없습니다 ({reason}). 폴더를 확인하세요.",
  disk_full: "디스크가 가득 차서 더 저장할 수 없습니다. 공간을 비우고 다시 해 보세요.",
  disk_read_only: "세션 폴더에 쓸 수 없습니다. 권한을 확인하세요.",
  bug: "프로그램 오류입니다. 서버의 터미널에 내용이 있습니다.",

  word_may_mean: "{word}: {names} 가운데 하나로 보입니다. 뜻하는 이름을 쓰세요.",
  word_means_nothing: "{word}: 모델이 아는 이름 가운데 뜻이 맞는 것이 없습니다. 가까운 이름은 {names}입니다.",

  no_token: "토큰이 없습니다. 서버가 출력한 주소를 여세요.",
  wrong_token: "토큰이 틀렸습니다. 서버가 출력한 주소를 여세요.",
  wrong_host: "서버는 localhost와 127.0.0.1로만 응답합니다. 서버가 출력한 주소를 여세요.",
  wrong_origin: "다른 사이트의 페이지가 보낸 요청입니다. 이 서버의 페이지를 쓰세요.",

  region_everywhere: "사진 전체가 바뀔 수 있습니다.",
  region_without_box: "새 객체의 위치가 없어 사진 전체가 바뀔 수 있습니다. 상자를 그리면 그 둘레만 바뀝니다.",
  region_by_attention: "위치가 없는 객체는 편집할 때 모델이 주목하는 곳에 따라 바뀔 부분이 정해집니다.",
  region_new: "사진 전체가 새로 만들어집니다.",
};
